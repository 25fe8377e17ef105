//! The mounts of `RUN --mount`, as a command sees them.

use std::fs;
use std::os::unix::net::UnixListener;
use std::thread;

use super::{Bench, Heard, Wish, on_each};

/// Builds what has to succeed.
fn build(bench: &Bench, dockerfile: &str, wish: &Wish<'_>) {
    let built = bench.build_with("it", dockerfile, wish, &Heard::default());
    built.unwrap_or_else(|error| panic!("{}: {dockerfile}: {}", bench.strategy, error.chain()));
    bench.assert_clean();
}

/// The paths of the image `it` that the image `base` does not have.
fn added(bench: &Bench) -> Vec<String> {
    let paths =
        |image: &str| bench.tree(image).iter().map(|named| named.path.display().to_string()).collect::<Vec<_>>();
    let base = paths("base");
    paths("it").into_iter().filter(|path| !base.contains(path)).collect()
}

#[test]
fn binds_of_stages_images_and_contexts() {
    on_each(|bench| {
        bench.write("d/f", "context");
        bench.write("d/left", "out");
        bench.write(".dockerignore", "d/left\n");
        bench.build("other", "FROM base\nRUN mkdir /o && echo image > /o/f && ln -s /o /link\n");
        let dockerfile = "FROM base AS a\nRUN mkdir /s && echo stage > /s/f\nFROM base\n\
            RUN --mount=from=a,source=/s,target=/m grep stage /m/f && ! touch /m/x 2>/dev/null\n\
            RUN --mount=from=a,source=s,target=/m,rw rm /m/f && echo > /m/x\n\
            RUN --mount=from=a,source=s/f,target=/file grep stage /file\n\
            RUN --mount=from=other,source=/link,target=/m grep image /m/f\n\
            RUN --mount=from=scratch,target=/m,rw echo > /m/x\n\
            RUN --mount=source=d,target=/m,rw grep context /m/f && rm /m/f && echo > /m/x && ! test -e /m/left\n\
            RUN --mount=source=d,target=/m grep context /m/f && ! test -e /m/x\n\
            RUN --mount=source=d/f,target=/m/n,rw grep context /m/n && echo x > /m/n\n";
        build(bench, dockerfile, &Wish::default());
        assert_eq!(added(bench), [""; 0], "{}", bench.strategy);
        assert_eq!(fs::read_to_string(bench.context().join("d/f")).expect("read"), "context");
    });
}

#[test]
fn what_is_bound_counts() {
    let Some(bench) = Bench::overlay() else { return };
    let cached = |word: &str, path: &str| {
        let dockerfile = format!(
            "FROM base AS a\nRUN mkdir /s && echo {word} > /s/f\nFROM base\nRUN --mount=from=a,source={path},target=/m true\n"
        );
        let heard = Heard::default();
        bench.build_with("it", &dockerfile, &Wish::default(), &heard).expect("build");
        heard.layers().into_iter().map(|(_, _, cached)| cached).collect::<Vec<_>>()
    };
    assert_eq!(cached("1", "/s"), [false, false]);
    assert_eq!(cached("1", "/s"), [true, true]);
    assert_eq!(cached("1", "/s/f"), [true, false]);
    assert_eq!(cached("2", "/s"), [false, false]);
}

#[test]
fn caches() {
    on_each(|bench| {
        let wish = Wish { no_cache: true, ..Wish::default() };
        let dockerfile = "FROM base AS seed\nRUN mkdir /s && echo seed > /s/f\nFROM base\n\
            RUN --mount=type=cache,target=/c,uid=1000,gid=100,mode=0700 test \"$(stat -c '%u %g %a' /c)\" = '1000 100 700'\n\
            RUN --mount=type=cache,id=k,target=/c,sharing=locked echo one > /c/one\n\
            RUN --mount=type=cache,id=k,target=/c,sharing=private grep one /c/one\n\
            RUN --mount=type=cache,id=k,target=/c --mount=type=cache,id=k,target=/d cmp /c/one /d/one\n\
            RUN --mount=type=cache,id=k,target=/c,ro ! touch /c/two 2>/dev/null\n\
            RUN --mount=type=cache,from=seed,source=/s,target=/c grep seed /c/f && echo more > /c/g\n\
            RUN --mount=type=cache,from=seed,source=/s,target=/c grep more /c/g\n";
        build(bench, dockerfile, &wish);
        assert_eq!(added(bench), [""; 0], "{}", bench.strategy);
        strata::build::free_caches(&bench.store).expect("free");
        assert_eq!(strata::build::free_caches(&bench.store).expect("free"), 0);
    });
}

/// Two builds that use a cache at the same time: each looks whether the other is in it.
#[test]
fn locked_and_private_caches_are_used_alone() {
    let Some(bench) = Bench::overlay() else { return };
    for sharing in ["locked", "private"] {
        let dockerfile = format!(
            "FROM base\nRUN --mount=type=cache,id={sharing},target=/c,sharing={sharing} \
             test ! -e /c/busy && touch /c/busy && sleep 1 && rm /c/busy\n"
        );
        let wish = Wish { no_cache: true, ..Wish::default() };
        thread::scope(|scope| {
            for name in ["one", "two"] {
                let (bench, dockerfile, wish) = (&bench, &dockerfile, &wish);
                scope.spawn(move || {
                    let store = Bench::open(&bench.scratch, bench.strategy).expect("open");
                    let built = bench.build_in(&store, name, dockerfile, wish, &Heard::default());
                    built.unwrap_or_else(|error| panic!("{sharing}: {}", error.chain()));
                });
            }
        });
    }
    bench.assert_clean();
}

/// A secret is where the command looks for it, and nowhere else: neither in a layer nor in the store.
#[test]
fn secrets() {
    const TEXT: &str = "vSecretOfTheTest";
    on_each(|bench| {
        let dockerfile = format!(
            "FROM base\nRUN --mount=type=secret,id=s grep -q {0} /run/secrets/s && test \"$(stat -c '%u %a' /run/secrets/s)\" = '0 400'\n\
             RUN --mount=type=secret,id=s,target=/x/y,uid=1000,mode=0440 test \"$(stat -c '%u %a' /x/y)\" = '1000 440'\n\
             RUN --mount=type=secret,id=s,env=TOKEN test \"${{TOKEN}}\" = {0} && ! test -e /run/secrets/s\n\
             RUN --mount=type=secret,id=s,target=/z,env=TOKEN test \"$TOKEN\" = \"$(cat /z)\"\n\
             RUN --mount=type=secret,id=none ! test -e /run/secrets/none\n",
            TEXT.replace('v', "[v]").replace("[v]", "v")
        );
        let dockerfile = dockerfile.replace(TEXT, "\"$(printf v)SecretOfTheTest\"");
        build(bench, &dockerfile, &Wish { secrets: &[("s", TEXT)], ..Wish::default() });
        assert_eq!(added(bench), [""; 0], "{}", bench.strategy);
        assert!(!bench.config("it").to_string().contains(TEXT));
        let found = std::process::Command::new("grep").args(["-rqF", TEXT]).arg(bench.scratch.path()).status();
        assert!(!found.expect("grep").success(), "{}: the secret is in the store", bench.strategy);
        // Another value is no reason to do the steps again.
        let heard = Heard::default();
        let other = Wish { secrets: &[("s", "other")], runtime: Some("no-such-runtime"), ..Wish::default() };
        bench.build_with("it", &dockerfile, &other, &heard).expect("all is known");
    });
}

#[test]
fn the_socket_of_an_agent() {
    let Some(bench) = Bench::overlay() else { return };
    let socket = bench.scratch.path().join("agent");
    let _listener = UnixListener::bind(&socket).expect("bind");
    let dockerfile = "FROM base\nRUN --mount=type=ssh test -S $SSH_AUTH_SOCK && \
        test \"$SSH_AUTH_SOCK $(stat -c '%u %a' $SSH_AUTH_SOCK)\" = '/run/buildkit/ssh_agent.0 0 600'\n\
        RUN --mount=type=ssh,target=/s,uid=1000,mode=0666 test \"$(stat -c '%u %a' /s)\" = '1000 666'\n";
    build(&bench, dockerfile, &Wish { agent: Some(&socket), ..Wish::default() });
    assert_eq!(added(&bench), [""; 0]);
    build(&bench, "FROM base\nRUN --mount=type=ssh test -z \"$SSH_AUTH_SOCK\"\n", &Wish::default());
}

#[test]
fn memory_has_its_size() {
    let Some(bench) = Bench::overlay() else { return };
    let dockerfile = "FROM base\nRUN --mount=type=tmpfs,target=/m,size=1m \
        head -c 500000 /dev/zero > /m/a && ! head -c 2000000 /dev/zero 2>/dev/null > /m/b\n";
    build(&bench, dockerfile, &Wish::default());
    assert_eq!(added(&bench), [""; 0]);
}
