use std::fs;

use serde_json::json;

use super::*;
use crate::build::config;
use crate::build::ignored::Ignored;
use crate::tree::Dir;

/// Plans `text` with a context that has the files `a`, `b` and `x.bz2`, and the images `base` and `trigger`.
fn planned(text: &str, arguments: &[(&str, &str)], target: Option<&str>) -> Result<Plan> {
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["a", "b"] {
        fs::write(dir.path().join(name), name).expect("write");
    }
    fs::write(dir.path().join("x.bz2"), b"BZh9 and so on").expect("write");
    let mut context = Origin::context(Dir::open(dir.path()).expect("open"), Ignored::default()).expect("a context");
    let arguments = arguments.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let file = parse::parse("D", text)?;
    plan(
        &file,
        Surroundings {
            arguments: &arguments,
            target,
            network: Network::Host,
            limits: Limits::default(),
            secrets: &BTreeSet::from(["s".to_owned()]),
            agents: &BTreeSet::new(),
            context: Some(&mut context),
            image: &mut image,
            platform: ("linux", "amd64"),
        },
    )
}

fn image(name: &str) -> Result<BaseImage> {
    let settings = match name {
        "base" => json!({"Env": ["PATH=/bin", "B=base"], "Cmd": ["old"], "WorkingDir": "/base", "User": "u"}),
        "trigger" => json!({"OnBuild": ["RUN one", "COPY a /"]}),
        _ => return Err(Error::not_found("no such image")),
    };
    let architecture = if name == "base" { "amd64" } else { "arm64" };
    let document = json!({
        "os": "linux", "architecture": architecture, "config": settings, "rootfs": {"type": "layers", "diff_ids": []},
    });
    let config = config::of_base(document.to_string().as_bytes())?;
    Ok(BaseImage { bytes: 0, top: None, config, layers: Vec::new() })
}

fn last(text: &str, arguments: &[(&str, &str)]) -> PlannedStage {
    let plan = planned(text, arguments, None).unwrap_or_else(|error| panic!("{text}: {}", error.chain()));
    plan.stages.into_iter().next_back().expect("a stage")
}

/// The settings after `text` on the image `base`.
fn settings(text: &str) -> serde_json::Value {
    serde_json::to_value(last(&format!("FROM base\n{text}"), &[]).settings).expect("JSON")
}

#[test]
fn settings_of_containers() {
    let path = "PATH=/bin";
    for (text, field, value) in [
        ("ENV B=2 C=\"$B x\"", "Env", json!([path, "B=2", "C=base x"])),
        ("ENV C the rest $B", "Env", json!([path, "B=base", "C=the rest base"])),
        ("LABEL a.b=1 \"c d\"='e $B'", "Labels", json!({"a.b": "1", "c d": "e $B"})),
        ("WORKDIR x\nWORKDIR ../$B/./y", "WorkingDir", json!("/base/base/y")),
        ("WORKDIR /", "WorkingDir", json!("/")),
        ("USER ${B:+me}:9", "User", json!("me:9")),
        (
            "EXPOSE 80 53/UDP 1-3/tcp",
            "ExposedPorts",
            json!({"80/tcp": {}, "53/udp": {}, "1/tcp": {}, "2/tcp": {}, "3/tcp": {}}),
        ),
        ("EXPOSE 8000-8001/udp 127.0.0.1:1:2", "ExposedPorts", json!({"8000/udp": {}, "8001/udp": {}, "2/tcp": {}})),
        ("VOLUME /a /b", "Volumes", json!({"/a": {}, "/b": {}})),
        ("VOLUME [\"/a b\"]", "Volumes", json!({"/a b": {}})),
        ("STOPSIGNAL SIGINT", "StopSignal", json!("SIGINT")),
        ("STOPSIGNAL RTMIN+3", "StopSignal", json!("RTMIN+3")),
        ("CMD []", "Cmd", json!(null)),
        ("SHELL [\"/bin/bash\"]\nHEALTHCHECK CMD a b", "Healthcheck", json!({"Test": ["CMD-SHELL", "a b"]})),
        ("HEALTHCHECK --interval=0s CMD [\"a\"]", "Healthcheck", json!({"Test": ["CMD", "a"]})),
        ("CMD a $B", "Cmd", json!(["/bin/sh", "-c", "a $B"])),
        ("CMD [\"a\", \"$B\"]", "Cmd", json!(["a", "$B"])),
        ("SHELL [\"/bin/bash\", \"-ec\"]\nCMD a", "Cmd", json!(["/bin/bash", "-ec", "a"])),
        ("ENTRYPOINT [\"e\"]", "Cmd", json!(null)),
        ("CMD [\"c\"]\nENTRYPOINT [\"e\"]", "Cmd", json!(["c"])),
        ("HEALTHCHECK NONE", "Healthcheck", json!({"Test": ["NONE"]})),
        (
            "HEALTHCHECK --interval=1m30s --retries=2 CMD a",
            "Healthcheck",
            json!({"Test": ["CMD-SHELL", "a"], "Interval": 90_000_000_000_u64, "Retries": 2}),
        ),
        ("ONBUILD COPY a /x", "OnBuild", json!(["COPY a /x"])),
    ] {
        assert_eq!(settings(text)[field], value, "{text}");
    }
}

fn run_of(stage: &PlannedStage) -> &RunAction {
    match stage.steps.last().map(|step| &step.action) {
        Some(Action::Run(run)) => run,
        other => panic!("{other:?}"),
    }
}

#[test]
fn arguments_are_known_where_they_are_declared() {
    let text = "ARG V=1\nARG W=$V\nFROM base\nARG V\nARG X=x$V\nARG NONE\nENV B=env\nARG B=arg\nRUN go $V";
    for (given, env) in
        [(&[][..], ["V=1", "X=x1"]), (&[("V", "2")], ["V=2", "X=x2"]), (&[("V", "2"), ("X", "3")], ["V=2", "X=3"])]
    {
        let stage = last(text, given);
        let run = run_of(&stage);
        assert_eq!(run.args, ["/bin/sh", "-c", "go $V"]);
        assert_eq!(run.env, [&["B=arg"], &env[..], &["PATH=/bin"]].concat(), "{given:?}");
    }
    let later = last("FROM base\nARG B=arg\nENV B=env\nARG B\nRUN go", &[]);
    assert_eq!(run_of(&later).env, ["PATH=/bin", "B=env"], "what comes later counts");
    let child = "FROM base AS one\nARG A=1\nARG B\nFROM one\nENV C=$A\nFROM base\nENV D=$A";
    for (target, variable) in [("1", "C=ann"), ("2", "D=")] {
        let plan = planned(child, &[("A", "ann")], Some(target)).expect("a plan");
        assert_eq!(plan.stages.last().and_then(|stage| stage.settings.env.last()).map(String::as_str), Some(variable));
    }
    let stage = last("FROM scratch\nARG TARGETARCH TARGETVARIANT TARGETSTAGE\nRUN go", &[]);
    let path = crate::container::DEFAULT_PATH;
    assert_eq!(run_of(&stage).env, ["TARGETARCH=amd64", "TARGETSTAGE=default", "TARGETVARIANT=", path]);
    let path = last("FROM scratch\nENV PATH=$PATH:/x", &[]).settings.env;
    assert_eq!(path, [format!("{}:/x", crate::container::DEFAULT_PATH)]);
    let stage = last("FROM base\nRUN go", &[("HTTP_PROXY", "p")]);
    assert_eq!(run_of(&stage).uncached, ["HTTP_PROXY"]);
    assert!(run_of(&stage).env.contains(&"HTTP_PROXY=p".to_owned()));
    let warnings = planned("FROM base", &[("Z", "1"), ("no_proxy", "x"), ("BUILDKIT_INLINE_CACHE", "1")], None)
        .expect("a plan")
        .warnings;
    assert_eq!(warnings, ["no ARG declares the build argument Z"]);
}

#[test]
fn only_what_is_needed_is_built() {
    let text = "FROM base AS a\nFROM a AS b\nRUN b\nFROM base AS c\nFROM base\nCOPY --from=b x /\nFROM 3";
    let needed = |target| planned(text, &[], target).map(|plan| plan.needed);
    assert_eq!(needed(Some("b")).expect("b"), [0, 1]);
    assert_eq!(needed(Some("C")).expect("c"), [2]);
    assert_eq!(needed(Some("3")).expect("3"), [0, 1, 3]);
    assert_eq!(needed(Some("nope")).expect_err("no such stage").kind(), ErrorKind::NotFound);
    assert!(needed(None).expect_err("a number is no base").to_string().starts_with("D:7:1: "));
}

/// Mounts, as they are planned.
#[test]
fn mounts() {
    for (mount, shown) in [
        ("type=tmpfs,dst=y,size=1m", "Tmpfs { target: \"/base/y\", size_bytes: Some(1048576), read_only: false }"),
        ("type=secret,id=s", "Secret { id: \"s\", target: Some(\"/run/secrets/s\"), env: None,"),
        ("type=secret,id=s,env=E", "Secret { id: \"s\", target: None, env: Some(\"E\"),"),
        ("type=secret,target=/a/s,mode=0440,uid=7", "uid: Some(7), gid: None, mode: Some(288) }"),
        ("type=cache,target=/c", "id: \"/c\", sharing: Shared,"),
        ("type=cache,id=$B,target=/c,sharing=locked,ro", "id: \"base\", sharing: Locked,"),
        ("type=cache,target=/c,from=base,source=/x", "source: \"/x\" }, target: \"/c\", read_only: false }"),
        ("from=base,source=x,target=/y", "source: \"/x\", target: \"/y\", read_only: true }"),
        ("type=bind,target=/y,rw", "ContextCopy {"),
        ("type=bind,target=/y,rw=false", "Context {"),
    ] {
        let stage = last(&format!("FROM base\nRUN --mount={mount} x"), &[]);
        let planned = format!("{:?}", run_of(&stage).mounts);
        assert!(planned.contains(shown), "{mount}: {planned}");
    }
    // A secret that is neither given nor required is left out.
    let stage = last("FROM base\nRUN --mount=type=secret,id=z --mount=type=ssh x", &[]);
    assert!(run_of(&stage).mounts.is_empty());
    let text = "FROM base AS a\nFROM base AS b\nFROM base\nRUN --mount=from=b,target=/y x";
    assert_eq!(planned(text, &[], None).expect("a plan").needed, [1, 2]);
}

#[test]
fn triggers_come_first_and_once() {
    let stage = last("FROM trigger AS t\nRUN two\nFROM t\nRUN three", &[]);
    assert_eq!(stage.steps.iter().map(|step| step.text.as_str()).collect::<Vec<_>>(), ["RUN three"]);
    let plan = planned("FROM trigger\nRUN two", &[], None).expect("a plan");
    let texts: Vec<_> = plan.stages[0].steps.iter().map(|step| step.text.as_str()).collect();
    assert_eq!(texts, ["RUN one", "COPY a /", "RUN two"]);
    assert!(plan.warnings[0].contains("linux/arm64"), "{:?}", plan.warnings);
}

#[test]
fn copies() {
    let copy = |text: &str| match last(&format!("FROM base\n{text}"), &[]).steps.pop().map(|step| step.action) {
        Some(Action::Copy(copy)) => copy,
        other => panic!("{other:?}"),
    };
    for (text, target) in [
        ("COPY a x", "/base/x"),
        ("COPY a x/", "/base/x/"),
        ("COPY a \"/q/\"", "/q/"),
        ("COPY a /x/.", "/x/"),
        ("COPY a ${NONE:-/e/}", "/e/"),
        ("COPY a b /x", "/x"),
        ("COPY a .", "/base/"),
        ("COPY a /", "/"),
        ("COPY a b /x/", "/x/"),
        ("COPY ? /", "/"),
    ] {
        assert_eq!(copy(text).target, target, "{text}");
    }
    let made = copy("COPY --chown=$B --chmod=640 <<\"A\" <<C /x/\n$B\nA\n$B \"q\"\nC\n");
    assert_eq!((made.chown.as_deref(), made.chmod), (Some("base"), Some(Chmod::To(0o640))));
    let texts: Vec<_> = made.texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    assert_eq!(texts, [("A", "$B\n"), ("C", "base \"q\"\n")]);
}

/// Each error begins with the position of the mistake.
#[test]
fn what_is_wrong() {
    for (text, place, what) in [
        ("FROM nope", "D:1:1", "no image or earlier stage \"nope\""),
        ("FROM base AS x\nCOPY --from=y a /", "D:2:1", "\"y\""),
        ("FROM base\nCOPY --from=0 a /", "D:2:1", "no earlier stage 0"),
        ("FROM $NOPE", "D:1:1", "names no image"),
        ("FROM base\nCOPY a \\\n nope /", "D:3:2", "\"nope\" is not there"),
        ("FROM base\nCOPY ../a /", "D:2:6", "leads out of the build context"),
        ("FROM base\nCOPY --chmod=u+y a /x", "D:2:1", "octal"),
        ("FROM base\nSTOPSIGNAL SIGNOPE", "D:2:1", "no signal"),
        ("FROM base\nEXPOSE 3-1", "D:2:1", "no port"),
        ("FROM base\nCOPY --exclude=[a a /x", "D:2:1", "no pattern"),
        ("FROM base\nRUN --security=insecure x", "D:2:5", "privileges"),
        ("FROM base\nADD https://example.org/x.git /x", "D:2:5", "clone it"),
        ("FROM base\nADD https://example.org/ /x/", "D:2:5", "no name"),
        ("FROM base\nADD --checksum=md5:x https://example.org/x /x", "D:2:22", "sha256"),
        ("FROM base\nADD --checksum=sha256:x a /x", "D:2:1", "which is a URL"),
        ("FROM base\nCOPY https://example.org/x /x", "D:2:6", "write ADD"),
        ("FROM base\nENV A=${", "D:2:1", "name of a variable"),
        ("FROM base\nENV A", "D:2:1", "no value"),
        ("FROM base\nRUN --network=bridge x", "D:2:5", "--network=bridge"),
        ("FROM base\nRUN --mount=type=nope,target=/y x", "D:2:5", "there is bind, cache"),
        ("FROM base\nRUN --mount=type=ssh,required x", "D:2:5", "--ssh default"),
        ("FROM base\nRUN --mount=type=secret,id=z,required=true x", "D:2:5", "--secret id=z"),
        ("FROM base\nRUN --mount=type=secret x", "D:2:5", "an id"),
        ("FROM base\nRUN --mount=type=tmpfs x", "D:2:5", "target"),
        ("FROM base\nRUN --mount=type=tmpfs,target=/ x", "D:2:5", "not /"),
        ("FROM base\nRUN --mount=type=tmpfs,target=/y,size=x x", "D:2:5", "size=x"),
        ("FROM base\nRUN --mount=type=tmpfs,target=/y,id=a x", "D:2:5", "has no \"id\""),
        ("FROM base\nRUN --mount=type=bind,from=x,target=/y x", "D:2:5", "\"x\""),
        ("FROM base\nRUN --mount=type=bind,from=0,target=/y x", "D:2:5", "no earlier stage 0"),
        ("FROM base\nRUN --mount=type=bind,ro=x,target=/y x", "D:2:5", "true or false"),
        ("FROM base\nRUN --mount=target=/y,type=cache,sharing=x x", "D:2:5", "sharing=x"),
        ("FROM base\nRUN --network=none --mount=type=cache,target=/y,mode=9 x", "D:2:20", "mode=9"),
        ("FROM base\nRUN --mount=type=cache,source=a,target=/y,size=1 x", "D:2:5", "\"size\""),
        ("FROM base\nRUN --mount=type=bind,source=nope,target=/y x", "D:2:5", "\"nope\" is not there"),
        ("FROM base\nRUN --mount=source=../a,target=/y x", "D:2:5", "leads out of the build context"),
        ("FROM base\nEXPOSE x", "D:2:1", "no port"),
        ("FROM base\nHEALTHCHECK --interval=soon CMD x", "D:2:1", "no duration"),
        ("FROM base\nARG A=${A:?missing}", "D:2:1", "variable A: missing"),
    ] {
        let error = planned(text, &[], None).expect_err(text);
        let message = error.chain();
        assert!(message.starts_with(&format!("{place}: ")) && message.contains(what), "{text}: {message}");
    }
}

/// A value that is doubled forty times would take terabytes.
#[test]
fn doubling_variables_are_refused() {
    let doubled =
        |keyword: &str| (1..=40).map(|n| format!("{keyword} x{n}=$x{}$x{}\n", n - 1, n - 1)).collect::<String>();
    let body = "$x$x$x$x$x$x$x$x".repeat(8);
    for text in [
        format!("ARG x0=abcdefgh\n{}FROM scratch\n", doubled("ARG")),
        format!("FROM scratch\nARG x0=abcdefgh\n{}", doubled("ARG")),
        format!("FROM scratch\nENV x0=abcdefgh\n{}", doubled("ENV")),
        format!("FROM scratch\nENV x={}\nCOPY <<E /f\n{body}\nE\n", "v".repeat(100_000)),
    ] {
        let error = planned(&text, &[], None).expect_err("too long");
        assert!(error.to_string().contains("longer than 1048576 bytes"), "{error}");
    }
}

/// Each value is within the limit of one text, and all values together exceed the limit of a build.
#[test]
fn the_values_of_a_build_are_bounded_together() {
    let long = "v".repeat(500_000);
    let many = |line: &str| (0..300).map(|n| line.replace('#', &n.to_string())).collect::<String>();
    for text in [many("LABEL l#=$x\n"), many("ENV e#=$x\n"), format!("LABEL{}\n", many(" l#=$x")), many("RUN true\n")] {
        let error = planned(&format!("FROM scratch\nENV x={long}\n{text}"), &[], None).expect_err("too much");
        assert!(error.to_string().contains("expanded texts are longer than 67108864 bytes"), "{error}");
    }
}

#[test]
fn many_pairs_take_linear_time() {
    let pairs: String = (0..20_000).map(|n| format!(" l{n}=$v{n}")).collect();
    let begun = std::time::Instant::now();
    planned(&format!("FROM scratch\nENV {}\nLABEL{pairs}\n", "v1=1 v2=2"), &[], None).expect("a plan");
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}
