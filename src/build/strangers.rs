//! Generated Dockerfiles and ignore files: none of them causes a panic on the way from the text to the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::json;

use super::context::Origin;
use super::ignored::Ignored;
use super::limits::{Limits, PATTERNS_MAX};
use super::plan::{BaseImage, Surroundings, plan};
use super::{config, parse};
use crate::container::Network;
use crate::error::{Error, Result};
use crate::strangers::try_each;
use crate::tree::Dir;

const DOCKERFILES: [&str; 6] = [
    "# syntax=x\n# escape=`\nARG V=1\nFROM base AS one\nENV A=$V B=\"$A ${C:-d}\" PATH=$PATH:/x\nRUN --mount=type=bind,from=one,target=/t \
     --network=none echo ${A:+b} \\\n  more\n",
    "FROM base\nARG V\nRUN <<E cat <<-F\na $V\nE\n\tb\n\tF\nCOPY --chown=1:2 --chmod=u=rwX,go=rX a b /x/\nADD --checksum=sha256:0 \
     http://h/f x.tar /y\n",
    "FROM trigger\nFROM one AS two\nCOPY --from=0 --parents a/./b* /z\nCOPY --exclude=*.log --link . .\nCOPY <<E /f\n$A\nE\n",
    "FROM scratch\nLABEL a=1 \"b c\"='d' e\nEXPOSE 80 1-9/udp\nVOLUME [\"/a b\"]\nUSER u:g\nWORKDIR /a/../b\nSTOPSIGNAL \
     RTMIN+3\nSHELL [\"a\"]\nCMD [\"b\", \"\\u0041\"]\nENTRYPOINT c\nHEALTHCHECK --interval=1m30s --retries=3 CMD d\nONBUILD RUN e\n",
    "FROM base\nENV x=a.b.c\nENV y=${x%.*}${x##*.}${x/./-}${x//\\./$x}${x:?no}\nENV x=$y$y$y$y y=$x$x\nENV z=${x%%?*}${y#*a}\n",
    "FROM base\nRUN --mount=type=cache,id=c,target=/c,uid=1,mode=0700,sharing=locked --mount=type=secret,id=s,env=S \
     --mount=type=tmpfs,target=/t,size=1g --mount=type=ssh,required=true [\"x\"]\n",
];

const WORDS: [&str; 40] = [
    "\n",
    " ",
    "\t",
    "\\",
    "\\\n",
    "\"",
    "'",
    "`",
    "$",
    "${",
    "}",
    "${A",
    ":-",
    ":+",
    ":?",
    "##",
    "%%",
    "//",
    "*",
    "?",
    "[",
    "]",
    "{",
    "<<E",
    "<<-\"E F\"\n",
    "E\n",
    "--mount=",
    "--from=one",
    "ONBUILD ",
    "\u{feff}",
    "\u{e9}",
    "\0",
    "FROM base AS x\n",
    "ENV A=$A$A\n",
    "RUN a\n",
    "COPY a b ",
    "ARG ",
    "# escape=`\n",
    "\r\n",
    "../",
];

fn image(name: &str) -> Result<BaseImage> {
    let settings = match name {
        "base" => json!({"Env": ["PATH=/bin", "A=base"], "Cmd": ["old"], "WorkingDir": "/base", "User": "u"}),
        "trigger" => json!({"OnBuild": ["RUN one", "COPY a /", "ENV A=$A$A"]}),
        _ => return Err(Error::not_found("no such image")),
    };
    let document = json!({
        "os": "linux", "architecture": "amd64", "config": settings, "rootfs": {"type": "layers", "diff_ids": []},
    });
    let config = config::of_base(document.to_string().as_bytes())?;
    Ok(BaseImage { bytes: 100, top: None, config, layers: Vec::new() })
}

#[test]
fn dockerfiles() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("d")).expect("mkdir");
    for name in ["a", "b", "d/e"] {
        fs::write(dir.path().join(name), name).expect("write");
    }
    let mut context = Origin::context(Dir::open(dir.path()).expect("open"), Ignored::default()).expect("a context");
    let (arguments, none) = (BTreeMap::from([("V".to_owned(), "2".to_owned())]), BTreeSet::new());
    let secrets = BTreeSet::from(["s".to_owned()]);
    let seeds = DOCKERFILES.map(|text| text.as_bytes().to_vec());
    try_each(concat!(module_path!(), "::dockerfiles"), &seeds, &WORDS, |input| {
        let Ok(file) = parse::parse("D", &String::from_utf8_lossy(input)) else { return };
        let around = Surroundings {
            arguments: &arguments,
            target: None,
            network: Network::Host,
            limits: Limits::default(),
            secrets: &secrets,
            agents: &none,
            context: Some(&mut context),
            image: &mut image,
            platform: ("linux", "amd64"),
        };
        if let Ok(planned) = plan(&file, around) {
            for stage in planned.stages {
                let text = serde_json::to_string(&stage.settings).expect("JSON");
                assert!(!text.contains("\\u0000"), "a NUL byte");
            }
        }
    });
}

#[test]
fn ignore_files() {
    let seeds = ["# c\n*.log\n!keep.log\n**/x\n[a-z]?/b\\*\n", "a\n/b/../c\n!**\n**/*.[!o]\n"];
    let words =
        ["*", "**", "/", "!", "[", "]", "^", "-", "\\", "\n", "?", "a", "../", "\u{e9}", "[a-z]", "**/", "{a,b}"];
    let seeds = seeds.map(|text| text.as_bytes().to_vec());
    try_each(concat!(module_path!(), "::ignore_files"), &seeds, &words, |input| {
        let text = String::from_utf8_lossy(input);
        let Ok(ignored) = Ignored::parse(&text, PATTERNS_MAX) else { return };
        let long = "a/".repeat(200);
        for path in ["a", "keep.log", "d/e/x", "a/b*", &long].into_iter().chain(text.lines().take(20)) {
            ignored.covers(Path::new(path));
        }
    });
}
