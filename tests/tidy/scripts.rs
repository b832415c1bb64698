//! The parts of the scripts that can be tried without a kernel and a VM.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::root;

/// Runs `script` in bash, in `directory`, after the named scripts.
fn bash(directory: &Path, sources: &[&str], script: &str) -> Output {
    let mut text = String::from("set -euo pipefail\n");
    for source in sources {
        text.push_str(&format!("source '{}'\n", root().join("scripts").join(source).display()));
    }
    let mut command = Command::new("bash");
    command.args(["-c", &(text + script)]).current_dir(directory).output().expect("run bash")
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn the_configuration_of_the_kernel_asks_for_each_symbol_once_and_says_why() {
    let text = fs::read_to_string(root().join("scripts/guest/kernel.config")).unwrap();
    let mut symbols = BTreeSet::new();
    for group in text.split("\n\n") {
        assert!(group.starts_with("# "), "no reason before {group:?}");
        for line in group.lines().filter(|line| !line.starts_with('#')) {
            let symbol = line.split_once('=').map_or(line, |(symbol, _)| symbol);
            assert!(symbol.starts_with("CONFIG_"), "not understood: {line}");
            assert!(symbols.insert(symbol.to_owned()), "{symbol} twice");
        }
    }
    assert!(symbols.len() > 100);
}

#[test]
fn a_symbol_that_does_not_come_to_be_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write(
        "wanted",
        "# Why.\nCONFIG_A=y\nCONFIG_B=y\n\nCONFIG_C=255\nCONFIG_D=y\nCONFIG_E=\"x=y z\"\n\
         # CONFIG_F is not set\n# CONFIG_G is not set\nCONFIG H\n",
    );
    write(
        "config",
        "# Automatically generated\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=64\n\
         CONFIG_E=\"x=y z\"\nCONFIG_F=y\n# CONFIG_G is not set\n",
    );
    let output = bash(directory.path(), &["guest/own-kernel.sh"], "lost_symbols wanted config");
    assert_eq!(
        printed(&output),
        "CONFIG_B is not set\nCONFIG_C is 64\nCONFIG_D is not set\nCONFIG_F is y\n\
         line 10: CONFIG H\n"
    );
}

#[test]
fn an_image_needs_no_module_of_a_kernel_that_has_them_built_in() {
    let directory = tempfile::tempdir().unwrap();
    let list = fs::read_to_string(root().join("scripts/guest/modules")).unwrap();
    let names = list
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(' ').next());
    let builtin: String = names
        .filter(|name| !name.is_empty())
        .map(|name| format!("kernel/x/{}.ko\n", name.replace('_', "-")))
        .collect();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("modules.dep", "");
    write("modules.builtin", &builtin);
    let sources = ["lib.sh", "guest/modules.sh"];
    let resolve = format!("resolve_modules . {}/scripts/guest/modules", root().display());
    assert_eq!(printed(&bash(directory.path(), &sources, &resolve)), "");
    let copy = "copy_modules . copied; ls copied; cat copied/order";
    assert_eq!(printed(&bash(directory.path(), &sources, copy)), "order\n");

    write("modules.builtin", &builtin.replace("kernel/x/9p.ko\n", ""));
    let output = bash(directory.path(), &sources, &resolve);
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error, "bash: . has neither module nor builtin: 9p\n");
}
