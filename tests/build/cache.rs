//! The build cache: steps that are done again, and steps that are not.

use std::os::unix::fs::PermissionsExt as _;

use super::{Bench, Heard, Wish, on_each};

/// Builds, and answers which of the steps that can change files were known.
fn cached(bench: &Bench, dockerfile: &str, wish: &Wish<'_>) -> Vec<bool> {
    let heard = Heard::default();
    // A cached build needs no runtime.
    let built = bench.build_with("cached", dockerfile, wish, &heard);
    built.unwrap_or_else(|error| panic!("{dockerfile}: {}", error.chain()));
    bench.assert_clean();
    heard.layers().into_iter().map(|(_, _, cached)| cached).collect()
}

const DOCKERFILE: &str = "FROM base\nARG A=1\nENV E=1\nCOPY dir /dir\nRUN echo $A $E > /x\nRUN true\n";

#[test]
fn what_decides() {
    let Some(mut bench) = Bench::overlay() else { return };
    bench.write("dir/file", "1");
    bench.write("dir/other", "1");
    let plain = Wish::default();
    assert_eq!(cached(&bench, DOCKERFILE, &plain), [false; 3]);
    bench.reopen();
    let none = Wish { runtime: Some("no-such-runtime"), ..Wish::default() };
    assert_eq!(cached(&bench, DOCKERFILE, &none), [true; 3], "by another process, without a runtime");
    bench.touch("dir/file", 1_200_000_000);
    assert_eq!(cached(&bench, DOCKERFILE, &none), [true; 3], "a time is not content");
    bench.write("unrelated", "1");
    assert_eq!(cached(&bench, DOCKERFILE, &none), [true; 3], "nobody copies this");

    let again = Wish { no_cache: true, ..Wish::default() };
    assert_eq!(cached(&bench, DOCKERFILE, &again), [false; 3]);
    // A step that made what was there already is followed by what is known.
    let argument = Wish { arguments: &[("A", "2")], ..Wish::default() };
    assert_eq!(cached(&bench, DOCKERFILE, &argument), [true, false, false]);
    assert_eq!(cached(&bench, DOCKERFILE, &argument), [true; 3]);
    assert_eq!(cached(&bench, &DOCKERFILE.replace("E=1", "E=2"), &plain), [true, false, false]);
    assert_eq!(cached(&bench, &DOCKERFILE.replace("RUN true", "RUN true "), &none), [true; 3]);
    assert!(!cached(&bench, &DOCKERFILE.replace("COPY", "COPY --chown=1"), &plain)[0]);

    bench.write("dir/file", "2");
    assert_eq!(cached(&bench, DOCKERFILE, &plain), [false; 3], "other content");
    bench.write("dir/file", "1");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(bench.context().join("dir/file"), mode).expect("chmod");
    assert_eq!(cached(&bench, DOCKERFILE, &plain), [false; 3], "another mode");
    std::fs::rename(bench.context().join("dir/other"), bench.context().join("dir/renamed")).expect("rename");
    assert_eq!(cached(&bench, DOCKERFILE, &plain), [false; 3], "another name");
}

/// A cached build gives the image that is there, not another one with another time.
#[test]
fn a_cached_build_is_the_same_image() {
    on_each(|bench| {
        bench.write("file", "1");
        for dockerfile in [
            "FROM base\nLABEL a=b\nCOPY file /x\nENV C=d\nRUN true\nRUN echo > /y\nCMD [\"x\"]\n",
            "FROM base AS one\nRUN echo 1 > /made\nFROM scratch\nUSER 1\nCOPY --from=one /made /\n",
            "FROM base\nLABEL only=this\n",
            "FROM scratch\nLABEL only=this\n",
        ] {
            let (first, _) = bench.build("first", dockerfile);
            let again = Bench::open(&bench.scratch, bench.strategy).expect("another process");
            let (second, heard) = bench.build("second", dockerfile);
            assert!(heard.layers().iter().all(|(_, _, cached)| *cached), "{dockerfile}");
            assert_eq!((first.id, first.manifest), (second.id, second.manifest), "{}: {dockerfile}", bench.strategy);
            assert_eq!(again.image("second").expect("image").config, first.id);
        }
        let (first, _) = bench.build("first", "FROM base\nRUN date +%N > /x\n");
        let wish = Wish { no_cache: true, ..Wish::default() };
        let other = bench.build_with("first", "FROM base\nRUN date +%N > /x\n", &wish, &Heard::default());
        assert_ne!(other.expect("build").id, first.id);
    });
}

#[test]
fn what_gc_takes_is_done_again() {
    let Some(bench) = Bench::overlay() else { return };
    let dockerfile = "FROM base\nRUN echo 1 > /x\n";
    assert_eq!(cached(&bench, dockerfile, &Wish::default()), [false]);
    bench.store.gc().expect("gc");
    assert_eq!(cached(&bench, dockerfile, &Wish::default()), [true], "its image needs it");
    bench.store.remove_image("cached").expect("remove");
    bench.store.gc().expect("gc");
    assert_eq!(cached(&bench, dockerfile, &Wish::default()), [false]);
}

#[test]
fn stages_are_known_by_what_is_in_them() {
    let Some(bench) = Bench::overlay() else { return };
    let dockerfile = |word: &str, last: &str| {
        format!("FROM base AS one\nRUN echo {word} > /made\nFROM base\nCOPY --from=one /made /{last}\n")
    };
    assert_eq!(cached(&bench, &dockerfile("a", "x"), &Wish::default()), [false, false]);
    assert_eq!(cached(&bench, &dockerfile("a", "x"), &Wish::default()), [true, true]);
    assert_eq!(cached(&bench, &dockerfile("a", "y"), &Wish::default()), [true, false]);
    assert_eq!(cached(&bench, &dockerfile("b", "x"), &Wish::default()), [false, false]);
}
