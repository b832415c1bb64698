//! Daemons in other languages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use conformance::{Bundle, part};

use crate::Case;
use crate::place::Place;

pub(crate) const CASES: &[Case] = &[
    ("the header is C99 and C++", header),
    ("a daemon in C leads a whole life, without an error of memory", daemon_in_c),
    ("whatever bytes come: the answer is typed, and no memory is lost", fuzz),
    ("a daemon in Go leads a whole life, with 64 goroutines and a thousand waits", daemon_in_go),
];

/// What the container of a whole life runs: it listens, and ends with 7 on SIGTERM.
pub(crate) const LIFE: &str =
    "nc -l -p 7000 -e /bin/cat & trap 'exit 7' TERM; while true; do sleep 0.1; done";

const HOST: &str = include_str!("hosts/host.c");

fn include_directory() -> String {
    let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime-api/capi/include");
    format!("-I{}", header.canonicalize().unwrap().display())
}

/// Compiles C into `output`.
pub(crate) fn compile(directory: &Path, source: &str, output: &Path, flags: &[&str]) {
    let path = directory.join("source.c");
    fs::write(&path, source).unwrap();
    let mut gcc = Command::new("gcc");
    gcc.args(["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", &include_directory()]);
    succeeded(gcc.args(flags).arg("-o").arg(output).arg(&path).arg("-ldl").output());
}

fn succeeded(output: std::io::Result<Output>) -> String {
    let output = output.expect("start the program");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}\n{errors}", output.status);
    text
}

/// The daemon in C, compiled.
pub(crate) fn host(place: &Place) -> PathBuf {
    let path = place.root.join("host");
    compile(&place.root, HOST, &path, &["-g"]);
    path
}

fn header(place: &Place) {
    let source = "#include \"vmrt.h\"\nvmrt_api *x; int main(void) { return x != 0; }";
    let path = place.root.join("x.c");
    fs::write(&path, source).unwrap();
    for (compiler, standard, language) in [("gcc", "c99", "c"), ("g++", "c++11", "c++")] {
        let mut command = Command::new(compiler);
        command.args([&format!("-std={standard}"), "-pedantic", "-Wall", "-Wextra", "-Werror"]);
        command.args(["-x", language, "-fsyntax-only", &include_directory()]).arg(&path);
        succeeded(command.output());
    }
}

/// Runs the daemon in C under the sanitizer, which finds what is read after it was given back, and what
/// never is.
fn sanitized(place: &Place, mode: &str, bundle: &Path) -> String {
    let path = place.root.join("host");
    compile(&place.root, HOST, &path, &["-g", "-fsanitize=address"]);
    let id = place.id("c");
    let mut host = Command::new(path);
    host.arg(mode).arg(place.library()).arg(place.config()).arg(place.state_dir());
    host.arg(&id).arg(bundle).arg(format!("file://{}", place.output(&id).display()));
    succeeded(host.output())
}

fn daemon_in_c(place: &Place) {
    let bundle = place.bundle(&place.id("c"), &Bundle::running(&["sh", "-c", LIFE]));
    assert_eq!(sanitized(place, "life", &bundle), "a whole life\n");
    place.is_clean();
}

#[expect(clippy::print_stdout, reason = "the figures are for people")]
fn fuzz(place: &Place) {
    println!("{}", sanitized(place, "fuzz", "/none".as_ref()).trim());
    place.is_clean();
}

#[expect(clippy::print_stdout, reason = "the figures are for people")]
fn daemon_in_go(place: &Place) {
    let path = place.root.join("host-go");
    fs::write(place.root.join("host.go"), include_str!("hosts/host.go")).unwrap();
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(&path).arg("host.go").current_dir(&place.root);
    go.env("CGO_CFLAGS", include_directory()).env("CGO_ENABLED", "1").env("GO111MODULE", "off");
    go.env("GOCACHE", part("VMRT_LIBRARY").with_file_name("go-cache"));
    succeeded(go.output());
    let id = place.id("c");
    let bundle = place.bundle(&id, &Bundle::running(&["sh", "-c", LIFE]));
    let mut host = Command::new(path);
    host.arg(place.library()).arg(place.config()).arg(place.state_dir());
    host.arg(&id).arg(bundle).arg(format!("file://{}", place.output(&id).display()));
    println!("{}", succeeded(host.output()).trim());
    place.is_clean();
}
