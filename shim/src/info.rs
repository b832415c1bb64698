//! What the program tells of itself.

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use runtime_api::{Result, ResultExt};

/// The name under which daemons know the runtime.
const NAME: &str = "io.containerd.vmrt.v2";

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The `features` document of the OCI runtime specification (features.md).
const FEATURES: &str = include_str!("features.json");

/// The name that containerd gives that document.
const FEATURES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// The answer to `-info`: a `RuntimeInfo`.
///
/// # Errors
/// `Internal` when it cannot be encoded.
pub(crate) fn info() -> Result<Vec<u8>> {
    let info = RuntimeInfo {
        name: NAME.to_owned(),
        version: MessageField::some(RuntimeVersion {
            version: VERSION.to_owned(),
            ..Default::default()
        }),
        features: MessageField::some(Any {
            type_url: FEATURES_TYPE.to_owned(),
            value: FEATURES.as_bytes().to_vec(),
            ..Default::default()
        }),
        ..Default::default()
    };
    info.write_to_bytes().internal(|| "encode RuntimeInfo")
}

/// The answer to `features`.
pub(crate) fn features() -> Vec<u8> {
    FEATURES.as_bytes().to_vec()
}

/// The answer to `-v`.
pub(crate) fn version() -> Vec<u8> {
    format!("{NAME} {VERSION}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_features_are_those_of_the_specification() {
        let info = RuntimeInfo::parse_from_bytes(&info().unwrap()).unwrap();
        assert_eq!(info.name, NAME);
        let features: serde_json::Value = serde_json::from_slice(&info.features.value).unwrap();
        assert_eq!(features["ociVersionMin"], "1.0.0");
        let options = features["mountOptions"].as_array().unwrap();
        assert!(options.iter().any(|option| option == "rro"), "Docker needs rro for read-only");
    }
}
