//! What is loaded, and what is refused.

use std::fs;

use conformance::Bundle;
use runtime_api::ErrorKind;
use runtime_capi::load::{self, Library, Options};
use runtime_capi::select::{Libraries, Runtimes, Selected, Trust};

use crate::Case;
use crate::place::{Place, init, start};

pub(crate) const CASES: &[Case] = &[
    ("a library that cannot be used is refused with the reason", refused),
    ("bad options are refused with the reason", bad_options),
    ("a state directory has one runtime at a time", one_at_a_time),
    ("the library tells its version", version),
    ("a crio.conf decides between the library and runc", selection),
];

fn error_of(place: &Place, path: &std::path::Path, options: &Options) -> runtime_api::Error {
    let _entered = place.executor.enter();
    match load::open(path, options) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    }
}

fn refused(place: &Place) {
    let whole = fs::read(place.library()).unwrap();
    let at = |name: &str, bytes: &[u8]| {
        let path = place.root.join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let other_machine = {
        let mut bytes = whole.clone();
        bytes[18] = 40;
        bytes
    };
    let cases = [
        (at("cut.so", &whole[..whole.len() / 3]), ErrorKind::InvalidArgument, "cut off"),
        (at("arm.so", &other_machine), ErrorKind::InvalidArgument, "machine"),
        (at("text.so", b"no library"), ErrorKind::InvalidArgument, "no ELF file"),
        (place.root.join("none.so"), ErrorKind::NotFound, "none.so"),
    ];
    for (path, kind, word) in cases {
        let error = error_of(place, &path, &place.options());
        assert_eq!(error.kind(), kind, "{}", error.chain());
        assert!(error.chain().contains(word), "{}", error.chain());
    }
    for (name, source, kind, word) in [
        ("other.so", "int nothing_here;", ErrorKind::InvalidArgument, "vmrt_get_api"),
        (
            "major.so",
            "const void *vmrt_get_api(unsigned major) { (void)major; return 0; }",
            ErrorKind::Unimplemented,
            "version 2",
        ),
    ] {
        let path = place.root.join(name);
        crate::hosts::compile(&place.root, source, &path, &["-shared", "-fPIC"]);
        let error = error_of(place, &path, &place.options());
        assert_eq!(error.kind(), kind, "{}", error.chain());
        assert!(error.chain().contains(word), "{}", error.chain());
    }
}

fn bad_options(place: &Place) {
    let bad = |change: fn(&mut Options), word: &str| {
        let mut options = place.options();
        change(&mut options);
        let error = error_of(place, &place.library(), &options);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{}", error.chain());
        assert!(error.chain().contains(word), "{}", error.chain());
    };
    bad(|options| options.config = Some("/no/such.toml".into()), "/no/such.toml");
    bad(|options| options.state_dir = Some("relative".into()), "relative");
    bad(|options| options.workers = 1000, "1000");
}

fn one_at_a_time(place: &Place) {
    let first = place.open();
    let error = error_of(place, &place.library(), &place.options());
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.chain().contains(&place.state_dir().display().to_string()), "{}", error.chain());
    drop(first);
    let closed = || {
        let _entered = place.executor.enter();
        load::open(&place.library(), &place.options()).is_ok()
    };
    assert!(conformance::eventually(std::time::Duration::from_secs(5), closed));
}

fn version(place: &Place) {
    let library = Library::load(&place.library()).unwrap();
    assert_eq!(library.version(), env!("CARGO_PKG_VERSION"));
    assert!(place.open().capabilities().attach);
}

fn selection(place: &Place) {
    let drop_ins = place.root.join("crio.conf.d");
    fs::create_dir(&drop_ins).unwrap();
    let text = format!(
        "[crio.runtime.runtimes.vmrt]\nruntime_path = {:?}\nversion = \"v2\"\n",
        place.library()
    );
    fs::write(drop_ins.join("50-vmrt.conf"), text).unwrap();
    let runtimes = Runtimes::read(&place.root.join("crio.conf"), &drop_ins).unwrap();

    let trusted = runtimes.select("vmrt", Trust::Trusted).unwrap();
    assert_eq!(trusted, Selected::Command(None));
    assert_eq!(runtimes.select("", Trust::Untrusted).unwrap(), Selected::Command(None));
    let Selected::Library(path) = runtimes.select("vmrt", Trust::Untrusted).unwrap() else {
        panic!("not the library")
    };

    // Another path is another instance, also of the same library.
    let copy = place.root.join("copy.so");
    fs::copy(&path, &copy).unwrap();
    let _entered = place.executor.enter();
    let libraries = Libraries::new(place.options());
    let (one, same) = (libraries.runtime(&path).unwrap(), libraries.runtime(&path).unwrap());
    let other = libraries.runtime(&copy).unwrap();
    assert!(std::ptr::addr_eq(std::sync::Arc::as_ptr(&one), std::sync::Arc::as_ptr(&same)));
    assert!(!std::ptr::addr_eq(std::sync::Arc::as_ptr(&one), std::sync::Arc::as_ptr(&other)));
    let id = place.id("c");
    place.run(async {
        start(&*one, place.request(&id, &Bundle::running(&["true"]))).await.unwrap();
        assert_eq!(one.wait(&init(&id)).await.unwrap().code, 0);
        let stranger = other.state(&init(&id)).await.unwrap_err();
        assert_eq!(stranger.kind(), ErrorKind::NotFound);
        one.delete(&init(&id)).await.unwrap();
    });
}
