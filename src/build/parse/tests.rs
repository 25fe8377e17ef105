use super::*;

fn steps(text: &str) -> Vec<Instruction> {
    let file = parse("D", &format!("FROM a\n{text}")).unwrap_or_else(|error| panic!("{text}: {}", error.chain()));
    file.stages.into_iter().next_back().expect("a stage").steps
}

fn run(text: &str) -> Run {
    match steps(text).pop().map(|step| step.what) {
        Some(What::Run(run)) => run,
        other => panic!("{other:?}"),
    }
}

#[test]
fn commands() {
    let shell = |text: &str| Command::Shell(text.to_owned());
    for (text, command) in [
        ("RUN a && \\\n  # note\n\n  b\\ c", shell("a &&   b\\ c")),
        ("RUN [\"a\", \"b c\"]", Command::Exec(vec!["a".into(), "b c".into()])),
        ("RUN [a", shell("[a")),
        ("RUN <<EOF\nx\n  y\nEOF", shell("x\n  y\n")),
        ("RUN <<-EOF\n\tx\n\tEOF", shell("x\n")),
        ("RUN <<EOF\nEOF", shell("")),
        ("RUN cat <<A <<'B' > /f\n1\nA\n2\nB", shell("cat <<A <<'B' > /f\n1\nA\n2\nB")),
        ("RUN cat <<-A\n\t1\n\tA", shell("cat <<-A\n\t1\nA")),
    ] {
        assert_eq!(run(text).command, command, "{text}");
    }
    assert_eq!(run("RUN <<EOF\n#!/bin/x\nEOF").script.as_deref(), Some("#!/bin/x\n"));
    let flags = run("RUN --network=none --mount=type=tmpfs,target=/a --mount=type=tmpfs,target=/b true");
    assert_eq!((flags.network.map(|(_, network)| network).as_deref(), flags.mounts.len()), (Some("none"), 2));
}

#[test]
fn texts_of_the_history() {
    for (text, history) in [
        ("run  echo \\\n  hi", "RUN echo   hi"),
        ("RUN --network=none true", "RUN --network=none true"),
        ("RUN [\"a\", \"b\"]", "RUN [\"a\", \"b\"]"),
        ("COPY --chown=1 a \\\n b /c", "COPY --chown=1 a  b /c"),
        ("env a=b", "ENV a=b"),
        ("ONBUILD run x", "ONBUILD run x"),
        ("CMD x", "CMD x"),
    ] {
        assert_eq!(steps(text)[0].text, history, "{text}");
    }
}

#[test]
fn here_documents_are_sources() {
    let What::Copy(copy) = steps("COPY a <<one <<-'two' /x/\n$v\none\n\ty\n\ttwo\nRUN b").remove(0).what else {
        panic!()
    };
    let shown = |source: &Source| match source {
        Source::Path(_, path) => path.clone(),
        Source::Text { name, text, expand } => format!("{name} {text:?} {expand}"),
    };
    assert_eq!(copy.sources.iter().map(shown).collect::<Vec<_>>(), ["a", "one \"$v\\n\" true", "two \"y\\n\" false"]);
}

#[test]
fn stages() {
    let file = parse("D", "ARG v=1\nFROM --platform=linux/amd64 a:$v AS One\nFROM one\n").expect("two stages");
    assert_eq!(file.globals.len(), 1);
    let names: Vec<_> = file.stages.iter().map(|stage| (stage.from.as_str(), stage.name.as_deref())).collect();
    assert_eq!(names, [("a:$v", Some("one")), ("one", None)]);
    assert_eq!(parse("D", "# escape=`\nFROM a\nRUN b `\n c").expect("backticks").escape, '`');
}

/// Rare and old forms of instructions.
#[test]
fn forms() {
    for (text, shown) in [
        ("ENTRYPOINT []", "Entrypoint(Exec([]))"),
        ("CMD []", "Cmd(Exec([]))"),
        ("CMD [ \"a\" , \"b\" ]", "Cmd(Exec([\"a\", \"b\"]))"),
        ("VOLUME [\"/a b\"]", "Volume([\"/a b\"])"),
        ("VOLUME /a /b", "Volume([\"/a\", \"/b\"])"),
        ("ENV A b c", "Env(\"A b c\")"),
        ("MAINTAINER A <a@b>", "Maintainer(\"A <a@b>\")"),
        ("SHELL [\"a\"]", "Shell([\"a\"])"),
        ("WORKDIR /a b", "Workdir(\"/a b\")"),
        ("ONBUILD RUN <<EOF\necho\nEOF", "Onbuild(\"RUN <<EOF\\necho\\nEOF\")"),
        ("ONBUILD COPY <<A <<B /x/\nA\nb\nB", "Onbuild(\"COPY <<A <<B /x/\\nA\\nb\\nB\")"),
    ] {
        assert_eq!(format!("{:?}", steps(text)[0].what), shown, "{text}");
    }
    let What::Add(add) = steps("ADD --unpack=false --keep-git-dir --checksum=c --link a b").remove(0).what else {
        panic!()
    };
    assert_eq!(
        (add.unpack, add.keep_git_dir, add.checksum.as_deref(), add.link),
        (Some(false), Some(true), Some("c"), true)
    );
    let What::Copy(copy) = steps("COPY --parents --exclude=a --exclude=b [\"x y\", \"z\"]").remove(0).what else {
        panic!()
    };
    assert_eq!((copy.parents, copy.excludes.len(), copy.target.as_str()), (true, 2, "z"));
    let trigger = parse_trigger("T", "RUN <<EOF\necho\nEOF").expect("a trigger");
    assert_eq!((trigger.text.as_str(), trigger.at.to_string()), ("RUN echo", "T:1:1".to_owned()));
    assert!(parse_trigger("T", "RUN a\nRUN b").is_err());
}

/// Each error begins with the position of the mistake.
#[test]
fn what_is_wrong() {
    for (text, place) in [
        ("", "D:1:1"),
        ("RUN x", "D:1:1"),
        ("FROM a\n\nFOO x", "D:3:1"),
        ("FROM a\nRUN --nope=1 x", "D:2:5"),
        ("FROM a\nRUN --device=vendor/x true", "D:2:5"),
        ("FROM a\nRUN --network x", "D:2:5"),
        ("FROM a\nRUN \\\n  --mount=type=tmpfs \\\n  --nope x", "D:4:3"),
        ("FROM a\nCOPY --link=x a b", "D:2:6"),
        ("FROM a\nCOPY --checksum=x a b", "D:2:6"),
        ("FROM a\nADD --parents a b", "D:2:5"),
        ("FROM a\nCOPY a <<E\nE", "D:2:1"),
        ("FROM a\nSHELL sh", "D:2:1"),
        ("FROM a\nCMD [\"a\", 1]", "D:2:1"),
        ("FROM a\nHEALTHCHECK x", "D:2:1"),
        ("FROM a b", "D:1:1"),
        ("FROM a AS b/c", "D:1:1"),
        ("FROM a\nCOPY --chown=1 --chown=2 a b", "D:2:16"),
        ("FROM a\nCOPY a", "D:2:1"),
        ("FROM a\nADD --from=b x /x", "D:2:5"),
        ("FROM a\nRUN <<EOF\nx", "D:2:1"),
        ("FROM a\nONBUILD ONBUILD RUN x", "D:2:9"),
        ("FROM a\nONBUILD COPY --x=1 a b", "D:2:14"),
        ("FROM a AS 1", "D:1:1"),
    ] {
        let error = parse("D", text).expect_err(text);
        assert!(error.to_string().starts_with(&format!("{place}: ")), "{text}: {error}");
    }
}

/// The kernel would cut the command at the NUL byte.
#[test]
fn nul_bytes() {
    for (text, place) in
        [("FROM a\nRUN echo a\0b\n", "D:2:11"), ("FROM a\nRUN <<E\nx\n\0\nE\n", "D:4:1"), ("# \0\n", "D:1:3")]
    {
        let error = parse("D", text).expect_err("a NUL");
        assert_eq!(error.to_string(), format!("{place}: a Dockerfile has no NUL bytes"));
    }
}
