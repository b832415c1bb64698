//! Generates the messages, the client and the server of proto/guest.proto.

use std::error::Error;
use std::path::PathBuf;

use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("guest");
    std::fs::create_dir_all(&out)?;
    Codegen::new()
        .out_dir(&out)
        .inputs(["proto/guest.proto"])
        .include("proto")
        .rust_protobuf()
        .rust_protobuf_customize(ProtobufCustomize::default().gen_mod_rs(false))
        .customize(Customize { async_all: true, ..Customize::default() })
        .run()?;
    // The generated files carry inner attributes, so each must be the whole of a module.
    std::fs::write(out.join("mod.rs"), "pub mod guest;\npub mod guest_ttrpc;\n")?;
    println!("cargo::rerun-if-changed=proto/guest.proto");
    Ok(())
}
