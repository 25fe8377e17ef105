//! The page of `strata compare` in a real browser: headless Chromium, by its own flags.
//!
//! The page is put into a frame as wide as a phone, inside a page that tries it out and writes what it found into
//! itself; the browser prints that. Nothing is waited for but the browser's end.

#[path = "support/mod.rs"]
mod support;

use std::path::Path;
use std::process::{Command, Output};

use strata::mount::scratch::FsType;

/// The width of a phone, in pixels.
const PHONE_PX: u32 = 390;

/// Flags that keep the browser from opening a window, using the network and storing data.
const FLAGS: [&str; 10] = [
    "--headless",
    "--hide-scrollbars",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=10000",
];

/// Runs in the page around the frame. It sorts each table by its first two number columns and looks at what came out.
const PROBE: &str = r#"
const found = [];
const frame = document.querySelector("iframe");
frame.addEventListener("load", () => {
  const page = frame.contentDocument;
  const say = (line) => found.push(line);
  say(`sections ${page.querySelectorAll("section[id]").length}`);
  say(`charts ${page.querySelectorAll("section[id] svg").length}`);
  say(`empty ${[...page.querySelectorAll("svg")].filter((svg) => svg.querySelectorAll("rect").length === 0).length}`);
  say(`overflow ${page.documentElement.scrollWidth - page.documentElement.clientWidth}`);
  say(`width ${page.documentElement.clientWidth}`);
  const wide = [...page.querySelectorAll("body *")].filter((e) => !e.closest(".wide") && !e.classList.contains("skip")
    && e.getBoundingClientRect().right > page.documentElement.clientWidth + 1);
  say(`wide ${wide.length}`);
  let wrong = 0, sorted = 0;
  for (const table of page.querySelectorAll("table")) {
    [...table.querySelectorAll("th")].forEach((heading, column) => {
      for (const order of ["ascending", "descending"]) {
        heading.querySelector("button").click();
        const cells = [...table.tBodies[0].rows].map((row) => row.cells[column]);
        if (heading.getAttribute("aria-sort") !== order) wrong += 1;
        if (cells.some((cell) => cell.dataset.key === undefined)) continue;
        const keys = cells.map((cell) => Number(cell.dataset.key));
        const right = keys.every((key, i) => i === 0 || (order === "ascending" ? keys[i - 1] <= key : keys[i - 1] >= key));
        if (right) sorted += 1; else wrong += 1;
      }
    });
  }
  say(`wrong ${wrong}`);
  say(`sorted ${sorted}`);
  say(`unnamed ${page.querySelectorAll('svg:not([role="img"][aria-labelledby]), table:not(:has(caption))').length}`);
  document.body.dataset.found = found.join(";");
});
"#;

/// The browser, or `None` where it is missing: then the test must return.
fn browser() -> Option<&'static str> {
    let runs = |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    let found = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(runs);
    support::require("chromium", found.map(drop).ok_or_else(|| "no Chromium is installed".to_owned())).then_some(found?)
}

/// A page of a real, small run at `path`; `None` where nothing can be mounted.
fn write_page(path: &Path) -> Option<()> {
    support::scratch(FsType::Tmpfs)?;
    let strata = Command::new(env!("CARGO_BIN_EXE_strata"))
        .args(["compare", "--quick", "--samples", "2", "--files", "30", "--fs", "tmpfs", "--html"])
        .arg(path)
        .output()
        .expect("run strata");
    assert!(strata.status.success(), "{}", String::from_utf8_lossy(&strata.stderr));
    Some(())
}

fn escape(page: &str) -> String {
    page.replace('&', "&amp;").replace('"', "&quot;")
}

fn visit(browser: &str, dir: &Path, url: &Path) -> Output {
    let mut command = Command::new(browser);
    command.args(FLAGS).arg(format!("--user-data-dir={}", dir.join("profile").display()));
    command.env("HOME", dir).env("XDG_CONFIG_HOME", dir).env("XDG_CACHE_HOME", dir);
    command.arg("--dump-dom").arg(format!("file://{}", url.display())).output().expect("run the browser")
}

#[test]
fn a_page_works_on_a_phone() {
    let Some(browser) = browser() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let (page, around) = (dir.path().join("page.html"), dir.path().join("around.html"));
    let Some(()) = write_page(&page) else { return };
    let text = std::fs::read_to_string(&page).expect("read");
    let workloads = text.matches("<section id=").count();
    assert!(workloads >= 5, "{text}");
    // The frame's own policy lets it load nothing; this page only looks into it.
    let probe = format!(
        "<!doctype html><body><iframe style=\"border:0\" width=\"{PHONE_PX}\" height=\"800\"></iframe><script>{PROBE}\
         frame.srcdoc = document.currentScript.dataset.page;</script></body>"
    );
    let probe = probe.replacen("<script>", &format!("<script data-page=\"{}\">", escape(&text)), 1);
    std::fs::write(&around, probe).expect("write");
    let output = visit(browser, dir.path(), &around);
    let (dom, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let found = dom.split("data-found=\"").nth(1).and_then(|rest| rest.split('"').next());
    let found = found.unwrap_or_else(|| panic!("nothing was found: {log}"));
    let number = |name: &str| -> u64 {
        let line = found.split(';').find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{name}: {found}"))
    };
    assert_eq!(number("width"), u64::from(PHONE_PX), "{found}");
    assert_eq!((number("sections"), number("charts")), (workloads as u64, workloads as u64), "{found}");
    for none in ["empty", "overflow", "wide", "wrong", "unnamed"] {
        assert_eq!(number(none), 0, "{none}: {found}");
    }
    assert!(number("sorted") > 20, "{found}");
    let console: Vec<&str> = log.lines().filter(|line| line.contains(":CONSOLE")).collect();
    assert!(console.is_empty(), "{console:?}");
}
