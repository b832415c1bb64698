//! What the C table says beyond Task. The same bytes in every language: protobuf messages that
//! nobody has generated code for.
//!
//! ```proto
//! message CreateTaskResponse { uint32 pid = 1; bytes token = 100; }  // token: Handle, durable part
//! message Dial { string id = 1; uint32 port = 2; }                   // id: the sandbox
//! ```

use containerd_shim_protos::api;
use protobuf::well_known_types::empty::Empty;
use protobuf::{UnknownFields, UnknownValueRef};
use runtime_api::{Error, Pid, Result, SandboxId, Token};

use super::{decode, encode};

const TOKEN_FIELD: u32 = 100;
const DIAL_ID_FIELD: u32 = 1;
const DIAL_PORT_FIELD: u32 = 2;

/// The answer to a creation. Without a token it is what Task knows.
pub fn created_response(pid: Pid, token: &Token) -> api::CreateTaskResponse {
    let mut response = api::CreateTaskResponse { pid: pid.0, ..Default::default() };
    if !token.0.is_empty() {
        let fields = response.special_fields.mut_unknown_fields();
        fields.add_length_delimited(TOKEN_FIELD, token.0.clone());
    }
    response
}

/// The answer to a creation → its number and its token, which is empty where the runtime cannot
/// re-attach.
pub fn created(response: &api::CreateTaskResponse) -> (Pid, Token) {
    let token = bytes_field(response.special_fields.unknown_fields(), TOKEN_FIELD);
    (Pid(response.pid), Token(token.unwrap_or_default().to_vec()))
}

/// What a Dial asks for.
///
/// # Errors
/// `InvalidArgument` for what is no such message, no id or no port.
pub fn dial(payload: &[u8]) -> Result<(SandboxId, u16)> {
    let message: Empty = decode(payload)?;
    let fields = message.special_fields.unknown_fields();
    let id = bytes_field(fields, DIAL_ID_FIELD).unwrap_or_default();
    let id = String::from_utf8(id.to_vec())
        .map_err(|source| Error::invalid_argument("dial: the id is no text").with_source(source))?;
    let port = fields.iter().find_map(|(number, value)| match value {
        UnknownValueRef::Varint(port) if number == DIAL_PORT_FIELD => Some(port),
        _ => None,
    });
    let sandbox = SandboxId::parse(id)?;
    match u16::try_from(port.unwrap_or(0)) {
        Ok(port) if port > 0 => Ok((sandbox, port)),
        _ => {
            let message = format!("dial sandbox {sandbox}: {port:?} is not a port");
            Err(Error::invalid_argument(message))
        }
    }
}

/// Asks for a connection to `port` of `sandbox`.
///
/// # Errors
/// None that can happen: the message is small.
pub fn dial_request(sandbox: &SandboxId, port: u16) -> Result<Vec<u8>> {
    let mut message = Empty::new();
    let fields = message.special_fields.mut_unknown_fields();
    fields.add_length_delimited(DIAL_ID_FIELD, sandbox.as_str().into());
    fields.add_varint(DIAL_PORT_FIELD, port.into());
    encode(&message)
}

fn bytes_field(fields: &UnknownFields, wanted: u32) -> Option<&[u8]> {
    fields.iter().find_map(|(number, value)| match value {
        UnknownValueRef::LengthDelimited(bytes) if number == wanted => Some(bytes),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_travels_with_the_answer_to_a_creation() {
        for token in [Token::default(), Token(vec![7; 40])] {
            let bytes = encode(&created_response(Pid(9), &token)).unwrap();
            let back: api::CreateTaskResponse = decode(&bytes).unwrap();
            assert_eq!(created(&back), (Pid(9), token));
        }
    }

    #[test]
    fn a_dial_names_a_sandbox_and_a_port() {
        let sandbox = SandboxId::parse("pod").unwrap();
        // What a caller without protobuf would write by hand.
        let frozen = b"\x0a\x03pod\x10\x90\x3f";
        assert_eq!(dial_request(&sandbox, 8080).unwrap(), frozen);
        assert_eq!(dial(frozen).unwrap(), (sandbox, 8080));
        for bad in [&b""[..], b"\x0a\x03pod", b"\x0a\x03pod\x10\x80\x80\x04", b"\x0a\x01/\x10\x01"]
        {
            assert!(dial(bad).is_err(), "{bad:?}");
        }
    }
}
