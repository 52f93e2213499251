//! The rooms are where ARCHITECTURE.md says, and know only whom they may know.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Whom each library may name among the workspace's crates and the guarded foreign ones. The binaries may name everybody but each other.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("trireme-runtime", &["glommio", "io-uring"]),
    ("trireme-engine", &["trireme-runtime"]),
    ("trireme-net", &["trireme-runtime"]),
    (
        "trireme-replication",
        &["trireme-runtime", "trireme-engine"],
    ),
    // Everybody that reads bytes from outside.
    (
        "trireme-fuzz",
        &[
            "trireme",
            "trireme-runtime",
            "trireme-engine",
            "trireme-replication",
            "trireme-kafka",
            "trireme-fsck",
        ],
    ),
    (
        "trireme-kafka",
        &[
            "trireme-runtime",
            "trireme-engine",
            "trireme-net",
            "trireme-replication",
        ],
    ),
];
const BINARIES: &[&str] = &[
    "trireme",
    "trireme-bench",
    "trireme-fsck",
    "trireme-sim",
    "trireme-tests",
];
/// The simulator runs the broker and the checker, which are libraries below their binaries.
const RUNS: &[(&str, &str)] = &[("trireme-sim", "trireme"), ("trireme-sim", "trireme-fsck")];
/// Crates that only `runtime` may name.
const GUARDED: &[&str] = &["glommio", "io-uring"];
/// The one room of the map that is no crate: pages for the public.
const PAGES: &str = "docs/";
const FILE_LINES_MAX: usize = 800;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

fn output(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8(done.stdout).unwrap()
}

fn cargo(arguments: &[&str]) -> String {
    output(
        &std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()),
        arguments,
    )
}

fn architecture() -> String {
    fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap()
}

/// The text of the section with this heading.
fn section(text: &str, heading: &str) -> String {
    let start = text
        .find(heading)
        .unwrap_or_else(|| panic!("ARCHITECTURE.md has no {heading:?}"));
    let rest = &text[start + heading.len()..];
    rest[..rest.find("\n## ").unwrap_or(rest.len())].to_string()
}

/// Member folder -> package, as Cargo sees the workspace; and package -> names of its normal dependencies.
fn workspace() -> (BTreeMap<String, String>, BTreeMap<String, BTreeSet<String>>) {
    let text = cargo(&[
        "metadata",
        "--format-version",
        "1",
        "--no-deps",
        "--offline",
    ]);
    let metadata: serde_json::Value = serde_json::from_str(&text).unwrap();
    let (mut folders, mut dependencies) = (BTreeMap::new(), BTreeMap::new());
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap().to_string();
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        let folder = manifest
            .parent()
            .unwrap()
            .strip_prefix(root().canonicalize().unwrap())
            .unwrap();
        folders.insert(format!("{}/", folder.display()), name.clone());
        let normal = package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|dependency| dependency["kind"].is_null());
        dependencies.insert(
            name,
            normal
                .map(|dependency| dependency["name"].as_str().unwrap().to_string())
                .collect(),
        );
    }
    (folders, dependencies)
}

fn tracked(pattern: &str) -> Vec<String> {
    let listed = output(
        "git",
        &[
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            pattern,
        ],
    );
    listed
        .lines()
        .filter(|path| root().join(path).exists())
        .map(str::to_string)
        .collect()
}

#[test]
fn the_map_and_the_folders_agree() {
    let text = section(&architecture(), "## Map");
    let block = text.split("```").nth(1).expect("the map is a fenced block");
    let mapped: BTreeSet<String> = block
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| line.split_whitespace().next().unwrap().to_string())
        .collect();
    let members: BTreeSet<String> = workspace().0.into_keys().collect();
    let crates: BTreeSet<String> = mapped
        .iter()
        .filter(|room| *room != PAGES)
        .cloned()
        .collect();
    assert_eq!(
        crates, members,
        "left: ARCHITECTURE.md's map; right: members of the workspace"
    );
    for path in tracked(".") {
        let Some((top, _)) = path.split_once('/') else {
            continue;
        };
        let known = mapped
            .iter()
            .any(|room| room.split('/').next() == Some(top));
        assert!(
            known || top.starts_with('.'),
            "{path} lies in a folder that the map does not name"
        );
    }
}

#[test]
fn the_way_of_a_message_names_functions_that_exist() {
    let text = section(&architecture(), "## The way of a message");
    let rows = text.lines().filter(|line| line.starts_with('|')).skip(2);
    let mut steps = 0;
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let quoted = |cell: &str| -> Vec<String> {
            cell.split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_string)
                .collect()
        };
        let mut code = String::new();
        for place in quoted(cells[2]) {
            let path = root().join(&place);
            assert!(path.exists(), "{row}: there is no {place}");
            let files = if path.is_dir() {
                tracked(&format!("{place}*.rs"))
            } else {
                vec![place.clone()]
            };
            files
                .iter()
                .for_each(|file| code += &fs::read_to_string(root().join(file)).unwrap());
        }
        for function in quoted(cells[1]) {
            let name = function.rsplit("::").next().unwrap().trim_end_matches("()");
            assert!(
                code.contains(&format!("fn {name}")),
                "{row}: no function {name} there"
            );
        }
        steps += 1;
    }
    assert!(
        (1..=8).contains(&steps),
        "the way of a message is to be told in at most eight steps, not {steps}"
    );
}

#[test]
fn crates_know_only_whom_they_may() {
    let (folders, dependencies) = workspace();
    let all: BTreeSet<&String> = folders.values().collect();
    for (package, named) in &dependencies {
        let guarded = named
            .iter()
            .filter(|name| all.contains(name) || GUARDED.contains(&name.as_str()));
        if BINARIES.contains(&package.as_str()) {
            let wrong: Vec<_> = guarded
                .filter(|name| !RUNS.contains(&(package.as_str(), name.as_str())))
                .filter(|name| {
                    BINARIES.contains(&name.as_str()) || GUARDED.contains(&name.as_str())
                })
                .collect();
            assert!(wrong.is_empty(), "{package} may not know {wrong:?}");
            continue;
        }
        let (_, allowed) = MAY_KNOW
            .iter()
            .find(|(name, _)| name == package)
            .unwrap_or_else(|| panic!("{package} has no rule in this test"));
        let wrong: Vec<_> = guarded
            .filter(|name| !allowed.contains(&name.as_str()))
            .collect();
        assert!(wrong.is_empty(), "{package} may not know {wrong:?}");
    }
}

/// Code without line comments and without what stands in string literals: enough to look for a keyword.
fn bare(code: &str) -> String {
    let mut out = String::new();
    for line in code.lines() {
        let mut in_string = false;
        let mut previous = ' ';
        for (at, c) in line.char_indices() {
            if c == '"' && previous != '\\' && previous != '\'' {
                in_string = !in_string;
            } else if !in_string && line[at..].starts_with("//") {
                break;
            } else if !in_string {
                out.push(c);
            }
            previous = c;
        }
        out.push('\n');
    }
    out
}

fn has_word(code: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        !code[..at].ends_with(part_of_word) && !code[at + word.len()..].starts_with(part_of_word)
    })
}

#[test]
fn only_runtime_is_unsafe_and_names_the_ring() {
    for path in tracked("*.rs")
        .iter()
        .filter(|path| !path.starts_with("runtime/"))
    {
        let code = bare(&fs::read_to_string(root().join(path)).unwrap());
        for word in ["unsafe", "glommio", "io_uring"] {
            assert!(
                !has_word(&code, word),
                "{path} contains `{word}`, which is for runtime alone"
            );
        }
    }
}

#[test]
fn bare_code_keeps_code_only() {
    assert_eq!(
        bare("let a = \"unsafe\"; // unsafe\nunsafe {}"),
        "let a = ; \nunsafe {}\n"
    );
    assert!(has_word("pub unsafe fn", "unsafe") && !has_word("unsafe_code", "unsafe"));
}

#[test]
fn no_tokio_in_the_broker() {
    let tree = cargo(&[
        "tree",
        "--offline",
        "--package",
        "trireme",
        "--edges",
        "normal",
        "--prefix",
        "none",
    ]);
    let found: Vec<&str> = tree
        .lines()
        .filter(|line| line.starts_with("tokio v"))
        .collect();
    assert!(found.is_empty(), "the broker depends on {found:?}");
    assert!(
        tree.lines()
            .any(|line| line.starts_with("trireme-engine v")),
        "the tree is not the broker's:\n{tree}"
    );
}

/// Broken behaviours are compiled into the simulator alone, and only where that is asked to.
#[test]
fn no_mutations_in_the_broker() {
    let features = cargo(&[
        "tree",
        "--offline",
        "--package",
        "trireme",
        "--edges",
        "features,normal",
        "--prefix",
        "none",
    ]);
    assert!(
        !features.contains("mutations"),
        "the broker is built with mutations:\n{features}"
    );
    let main = fs::read_to_string(root().join("server/src/main.rs")).unwrap();
    assert!(
        main.contains("!trireme_engine::mutations::BUILT"),
        "the binary refuses to be built with them"
    );
}

#[test]
fn a_file_is_one_idea() {
    for path in tracked("*.rs") {
        let lines = fs::read_to_string(root().join(&path))
            .unwrap()
            .lines()
            .count();
        assert!(
            lines <= FILE_LINES_MAX,
            "{path} has {lines} lines, more than {FILE_LINES_MAX}"
        );
    }
}
