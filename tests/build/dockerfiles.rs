//! Dockerfiles of the kinds that people write, each of which checks itself.

use std::os::unix::fs::symlink;

use super::{Bench, Heard, Wish};

/// Dockerfiles that build only if they are read as BuildKit reads them.
const DOCKERFILES: &[&str] = &[
    "ARG a1=\"foo bar\" a2=base\nARG a3=\"$a2-foo\"\nFROM $a2\nARG a3 a4=\"123 456\" a1\n\
     RUN test \"$a1:$a3:$a4\" = 'foo bar:base-foo:123 456'\n",
    "ARG image=idlebase\nFROM ${image#idle}\nARG my\nENV one \"one=${my:-none}\"\nENV two \"${my%%e*}\"\n\
     RUN test \"$one $two\" = 'one=none '\nARG S=1.2.3\nRUN test \"$S\" = 1.2.3\nENV M=${S%.*} N=${S//./-}\n\
     RUN test \"$M $N\" = '1.2 1-2-3'\n",
    "FROM base\nARG FOO\nARG BAR=\nRUN env | grep -x BAR= && ! env | grep FOO\n",
    "FROM base\nENV p foo%sbar\nRUN test \"$p\" = 'foo%sbar'\n",
    "FROM base AS one\nRUN test -z \"$TARGETSTAGE\"\nARG TARGETSTAGE\nRUN test $TARGETSTAGE = default\nFROM one\n",
    "FROM base AS ONe\nCOPY foo bar\nFROM base AS tWO\nCOPY --from=oNE bar baz\nFROM base\nCOPY --from=two baz x\nRUN cat x\n",
    "from base\nrun true\ncopy foo /x\nRun test -f /x\n",
    "FROM base\nENTRYPOINT [\"/nope\"]\nRUN [\"ls\"]\n",
    "FROM base AS src\nRUN mkdir /in && echo 12 > /in/f\nFROM base AS parent\nONBUILD COPY --from=src /in/f /out/f\n\
     ONBUILD RUN --mount=from=src,source=/in,target=/m <<E\ncmp /m/f /out/f\nE\nFROM parent\nRUN grep 12 /out/f\n",
    "FROM base\nCOPY link /a\nCOPY linkdir /d\nCOPY linkdir/b/f /f\nRUN test ! -L /a && grep foo /a && test -f /d/b/f && test -f /f\n",
    "FROM base\nWORKDIR /w\nCOPY foo ./x/\nCOPY foo y\nCOPY sub/a .\nWORKDIR in\nCOPY foo ../up\n\
     RUN test -f /w/x/foo && test -f /w/y && test -f /w/b/f && test -f /w/up && test $PWD = /w/in\n",
    "FROM base\nCOPY fo* /one/\nCOPY f*o f2*n* /two/\nCOPY sub/*/b /three/\nCOPY su* /four/\n\
     RUN test -f /one/foo && test -f /two/foo && test -f /three/f && test -f /four/a/b/f\n",
    "FROM base\nENV none=\"\"\nCOPY foo $none\nRUN test -f /foo\nWORKDIR /w\nCOPY --link foo .\nCOPY --link passwd $none\n\
     RUN test -f foo && test -f passwd\n",
    "FROM base\nRUN <<E\n#!/bin/awk -f\nBEGIN { print \"foo\" > \"/dest\" }\nE\nRUN grep foo /dest\n\
     RUN <<A cat - > /a && cat <<-B > /b\none\nA\n\ttwo\n\tB\nRUN grep one /a && grep -x two /b\nRUN <<E\nE\n",
    "FROM base\nENV D=/tmp/d T=cache\nRUN --mount=type=$T,id=k,target=$D touch /tmp/d/f\n\
     RUN --mount=type=$T,id=k,target=/x test -f /x/f\nRUN --mount=type=cache,target=/c,source=../../../etc true\n",
    "FROM base\nUSER alice\nRUN test \"$(id -G)\" = '100 200'\nUSER 1000:200\nRUN test \"$(id -g)\" = 200\n",
    "\u{feff}# syntax=docker/dockerfile:1\n# check=skip=all\n# escape=`\nFROM --platform=$BUILDPLATFORM base AS x\n\
     HEALTHCHECK --interval=5m --timeout=3s CMD curl -f http://localhost/ || exit 1\nSTOPSIGNAL 9\nVOLUME [\"/data\"]\n\
     MAINTAINER me\nRUN true `\n\n  # a note\n  && test a\\ b = 'a b'\nLABEL a=b c='d e' f=\"g h\"\nLABEL old style\nEXPOSE 80 81/udp\n",
    "FROM base\r\nRUN echo a \\\r\n  && true\r\nCOPY <<E /crlf\r\nx\r\nE\r\nRUN test $(wc -c < /crlf) -eq 3\r\n",
];

#[test]
fn what_people_write() {
    let Some(bench) = Bench::overlay() else { return };
    bench.write("foo", "foo");
    bench.write("sub/a/b/f", "f");
    symlink("foo", bench.context().join("link")).expect("link");
    symlink("sub/a", bench.context().join("linkdir")).expect("link");
    for dockerfile in DOCKERFILES {
        bench.build("it", dockerfile);
    }
}

#[test]
fn what_nobody_can_build() {
    let Some(bench) = Bench::overlay() else { return };
    for (dockerfile, what) in [
        ("FROM base AS a\nCOPY --from=b x /\nFROM base AS b\nFROM a\n", "Dockerfile:2:1: "),
        ("FROM base\nRUN [\"echo\", \"hello\"]this is\n", "this is: exit status"),
        ("FROM base\nARG SOURCE_DATE_EPOCH\n", "SOURCE_DATE_EPOCH=\"x\" is no number"),
    ] {
        let wish = Wish { arguments: &[("SOURCE_DATE_EPOCH", "x")], ..Wish::default() };
        let wish = if dockerfile.contains("EPOCH") { wish } else { Wish::default() };
        let error = bench.build_with("it", dockerfile, &wish, &Heard::default()).expect_err(dockerfile);
        assert!(error.chain().contains(what), "{dockerfile}: {}", error.chain());
    }
    // A build argument is the time of the image, too.
    let wish = Wish { arguments: &[("SOURCE_DATE_EPOCH", "1234567890")], ..Wish::default() };
    let dockerfile = "FROM base\nARG SOURCE_DATE_EPOCH\nRUN test $SOURCE_DATE_EPOCH = 1234567890\n";
    bench.build_with("it", dockerfile, &wish, &Heard::default()).expect("build");
    assert_eq!(bench.config("it")["created"], "2009-02-13T23:31:30Z");
}
