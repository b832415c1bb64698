//! Reading a JSON document by the names of its fields.
//!
//! One small reader for every type, in place of code generated for each: what a helper runs, it runs
//! once, and under emulation the first run of any code is what costs.

use runtime_api::{Error, Result};
use serde_json::{Map, Value};

/// A JSON object. Fields are asked for by their full dotted names, which errors repeat; the last part
/// is the key. A field that is null is absent.
#[derive(Clone, Copy)]
pub(in crate::helper) struct Object<'a>(&'a Map<String, Value>);

impl<'a> Object<'a> {
    /// Takes a value that has to be an object.
    pub(in crate::helper) fn of(value: &'a Value, name: &str) -> Result<Self> {
        value.as_object().map(Self).ok_or_else(|| unlike(name, "an object"))
    }

    fn value(self, name: &str) -> Option<&'a Value> {
        let key = name.rsplit('.').next().unwrap_or(name);
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// All fields.
    pub(in crate::helper) fn fields(self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    pub(in crate::helper) fn object(self, name: &str) -> Result<Option<Self>> {
        self.value(name).map(|value| Self::of(value, name)).transpose()
    }

    /// An array; an absent one is empty.
    pub(in crate::helper) fn list(self, name: &str) -> Result<&'a [Value]> {
        match self.value(name) {
            None => Ok(&[]),
            Some(value) => {
                value.as_array().map(Vec::as_slice).ok_or_else(|| unlike(name, "an array"))
            }
        }
    }

    /// An array of objects.
    pub(in crate::helper) fn objects(self, name: &str) -> Result<Vec<Self>> {
        self.list(name)?.iter().map(|value| Self::of(value, name)).collect()
    }

    pub(in crate::helper) fn text(self, name: &str) -> Result<Option<&'a str>> {
        self.value(name)
            .map(|value| value.as_str().ok_or_else(|| unlike(name, "a string")))
            .transpose()
    }

    /// A string that has to be there.
    pub(in crate::helper) fn required(self, name: &str) -> Result<&'a str> {
        self.text(name)?.ok_or_else(|| Error::invalid_argument(format!("{name} is missing")))
    }

    /// An array of strings.
    pub(in crate::helper) fn texts(self, name: &str) -> Result<Vec<String>> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        self.list(name)?
            .iter()
            .map(|value| text(value).ok_or_else(|| unlike(name, "an array of strings")))
            .collect()
    }

    /// An integer of any type.
    pub(in crate::helper) fn number<T: TryFrom<i128>>(self, name: &str) -> Result<Option<T>> {
        self.value(name).map(|value| integer(value, name)).transpose()
    }

    /// An array of integers.
    pub(in crate::helper) fn numbers<T: TryFrom<i128>>(self, name: &str) -> Result<Vec<T>> {
        self.list(name)?.iter().map(|value| integer(value, name)).collect()
    }

    /// A boolean.
    pub(in crate::helper) fn flag(self, name: &str) -> Result<Option<bool>> {
        self.value(name)
            .map(|value| value.as_bool().ok_or_else(|| unlike(name, "a boolean")))
            .transpose()
    }

    /// Refuses what is there and cannot be honoured.
    pub(in crate::helper) fn refuse(self, names: &[&str]) -> Result<()> {
        let empty = |value: &Value| match value {
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::Null | Value::Bool(false) => true,
            Value::Bool(true) => false,
        };
        match names.iter().find(|name| self.value(name).is_some_and(|value| !empty(value))) {
            Some(name) => Err(Error::unimplemented(format!("{name} is not supported in a guest"))),
            None => Ok(()),
        }
    }
}

fn integer<T: TryFrom<i128>>(value: &Value, name: &str) -> Result<T> {
    let number = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    number
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| Error::invalid_argument(format!("{name} cannot be {value}")))
}

fn unlike(name: &str, wanted: &str) -> Error {
    Error::invalid_argument(format!("{name} is not {wanted}"))
}

#[cfg(test)]
mod tests {
    use runtime_api::ErrorKind;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_of_another_type_is_named() {
        let value = json!({"a": "x", "b": [1, "2"], "c": null, "d": -1});
        let object = Object::of(&value, "it").unwrap();
        assert_eq!(object.text("it.a").unwrap(), Some("x"));
        assert_eq!(object.number::<u32>("it.c").unwrap(), None);
        assert_eq!(object.number::<i64>("it.d").unwrap(), Some(-1));
        for (error, line) in [
            (object.number::<u32>("it.d").unwrap_err(), "it.d cannot be -1"),
            (object.texts("it.b").unwrap_err(), "it.b is not an array of strings"),
            (object.object("it.a").map(drop).unwrap_err(), "it.a is not an object"),
            (object.required("it.c").unwrap_err(), "it.c is missing"),
        ] {
            assert_eq!((error.kind(), error.chain().as_str()), (ErrorKind::InvalidArgument, line));
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        let value = json!({"x": {}, "y": {"z": 1}, "off": false, "none": 0});
        let object = Object::of(&value, "linux").unwrap();
        object.refuse(&["linux.x", "linux.absent", "linux.off", "linux.none"]).unwrap();
        let error = object.refuse(&["linux.x", "linux.y"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unimplemented);
        assert!(error.chain().starts_with("linux.y "));
    }
}
