//! Rules about the tree itself.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails loudly")]

mod scripts;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Which crates of ours each crate may use; ARCHITECTURE.md gives the reasons.
const ARROWS: &[(&str, &[&str])] = &[
    ("runtime-api", &[]),
    ("runtime-task", &["runtime-api"]),
    ("runtime-capi", &["runtime-api", "runtime-task"]),
    // The binary of the package is the composition root; its library must not know the backend.
    ("shim", &["runtime-api", "runtime-task", "vmm-backend"]),
    ("guest-api", &[]),
    ("vmm-backend", &["runtime-api", "runtime-task", "guest-api"]),
    ("vmrt-agent", &["runtime-api", "runtime-task", "guest-api"]),
    ("libvmrt", &["runtime-api", "runtime-capi", "vmm-backend"]),
    ("conformance", &["runtime-api", "runtime-task", "runtime-capi"]),
];

/// The longest file of source code, in lines.
const MAX_LINES: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("run cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON of cargo metadata")
}

#[test]
fn the_arrows_between_crates_are_those_of_the_architecture() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let allowed: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let ours: Vec<_> = packages.iter().map(|package| package["name"].as_str().unwrap()).collect();
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let allowed = allowed.get(name).unwrap_or_else(|| panic!("{name} has no row in ARROWS"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let dependency = dependency["name"].as_str().unwrap();
            let stranger = !ours.contains(&dependency) || allowed.contains(&dependency);
            assert!(stranger, "{name} must not depend on {dependency}");
        }
    }
    assert_eq!(ours.len(), ARROWS.len());
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            if name != "target" && name != ".git" {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_source_file_is_longer_than_it_can_be_read() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    assert!(files.len() > 30);
    for file in files {
        let lines = std::fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines", file.display());
    }
}

#[test]
fn the_shims_library_does_not_know_the_backend() {
    let mut files = Vec::new();
    sources(&root().join("shim/src"), &mut files);
    for file in files.iter().filter(|file| !file.starts_with(root().join("shim/src/bin"))) {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(!text.contains("vmm_backend"), "{} names vmm_backend", file.display());
    }
}
