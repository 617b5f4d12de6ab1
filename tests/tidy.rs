//! The rules of the tree: layers, module headers, file sizes.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a failed expectation is a failed test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest file, in lines. The aim is 500; some tables and tests are a little longer.
const LINES_MAX: usize = 600;

/// The modules from the bottom up; a module may use those before it. Those of one row may not use each other.
const LAYERS: &[&[&str]] = &[
    &["money", "planted"],
    &["ledger"],
    &["protocol", "telemetry"],
    &["flow"],
    &["journal"],
    &["runs"],
    &["store"],
    &["settlement"],
    &["shard"],
    &["clearing", "router"],
    &["client", "gateway"],
    &["engine"],
    &["backoffice", "backup"],
    &["verify"],
    &["ops"],
    &["config"],
    &["server"],
    &["cli"],
];

/// The sources below a directory; what was built there (the fuzz targets have a `target` of their own) is not ours.
fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                rust_files(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn files(directories: &[&str]) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for directory in directories {
        rust_files(&root.join(directory), &mut found);
    }
    assert!(!found.is_empty());
    found.sort();
    found
}

#[test]
fn every_file_has_a_header_and_a_bearable_length() {
    for path in files(&["src", "loadgen/src", "tests", "benches"]) {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//!") || text.starts_with("#![doc"), "{} has no module header", path.display());
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines", path.display());
    }
}

#[test]
fn arrows_between_layers_point_downward() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let row_of = |module: &str| LAYERS.iter().position(|row| row.contains(&module));
    for path in files(&["src"]) {
        let inside = path.strip_prefix(&source).unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.trim_end_matches(".rs");
        if ["lib", "main"].contains(&module) {
            continue;
        }
        let own = row_of(module).unwrap_or_else(|| panic!("{module} is in no layer"));
        let text = fs::read_to_string(&path).unwrap();
        // Tests may look anywhere; documentation links are no arrows.
        let code = text.split("#[cfg(test)]").next().unwrap();
        if path.to_str().unwrap().ends_with("_tests.rs") {
            continue;
        }
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let used: BTreeSet<&str> = lines
            .flat_map(|line| line.split("crate::").skip(1))
            .map(|rest| rest.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap())
            .filter(|used| row_of(used).is_some())
            .collect();
        for used in used {
            let other = row_of(used).unwrap();
            assert!(used == module || other < own, "{} uses {used}, which is not below {module}", path.display());
        }
    }
}

#[test]
fn rules_know_no_runtime_and_the_generator_only_the_client() {
    for path in files(&["src/money", "src/ledger", "src/protocol"]) {
        let text = fs::read_to_string(&path).unwrap();
        for forbidden in ["std::fs", "std::net", "std::time", "tokio", "actix::", "sled::", "std::thread"] {
            let used = text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(forbidden));
            assert!(!used, "{} uses {forbidden}", path.display());
        }
    }
    for path in files(&["loadgen/src"]) {
        let text = fs::read_to_string(&path).unwrap();
        for used in text.split("heng::").skip(1) {
            let module = used.split(|letter: char| !letter.is_alphanumeric()).next().unwrap();
            // `cli` starts the server of `--spawn`, `telemetry` reads the generator's own processor time.
            assert!(
                ["client", "ledger", "protocol", "cli", "telemetry"].contains(&module),
                "{} uses {module}",
                path.display()
            );
        }
    }
}
