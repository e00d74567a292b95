//! `config.json`, whatever model it is of.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Error;

/// What a model says of itself: its type, and fields that only its family knows.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    path: PathBuf,
    json: Vec<u8>,
    model_type: Option<String>,
}

/// The fields that are told of whatever the model.
#[derive(Deserialize)]
struct Known {
    model_type: Option<String>,
    #[serde(default)]
    peft_type: Option<String>,
}

impl ConfigFile {
    /// The text of a `config.json`; errors name `path`.
    ///
    /// # Errors
    /// [`Error::Adapter`] if it is one of peft. Whether it is JSON at all shows when
    /// [`fields`](Self::fields) are asked for.
    pub fn from_json(json: impl Into<Vec<u8>>, path: &Path) -> Result<Self, Error> {
        let json = json.into();
        let path = path.to_owned();
        let model_type = match serde_json::from_slice(&json) {
            Ok(Known {
                peft_type: Some(_), ..
            }) => return Err(Error::Adapter { path }),
            Ok(Known { model_type, .. }) => model_type,
            Err(_) => None,
        };
        Ok(Self {
            path,
            json,
            model_type,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its field `model_type`, by which a model's family is told; `None` if it has none that is a
    /// string.
    pub fn model_type(&self) -> Option<&str> {
        self.model_type.as_deref()
    }

    /// The fields that a family asks for.
    ///
    /// # Errors
    /// [`Error::Json`], with line and column, if the file is not JSON, or lacks a field or has it
    /// of another type.
    pub fn fields<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.json).map_err(|problem| Error::Json {
            path: self.path.clone(),
            problem,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> Result<ConfigFile, Error> {
        ConfigFile::from_json(json, Path::new("config.json"))
    }

    #[test]
    fn a_model_type_is_a_string_or_is_not_there() {
        for (json, model_type) in [
            (r#"{"model_type": "esm", "hidden_size": 8}"#, Some("esm")),
            (r#"{"model_type": 5}"#, None),
            ("{}", None),
            ("not JSON", None),
        ] {
            assert_eq!(config(json).unwrap().model_type(), model_type, "{json}");
        }
    }

    #[test]
    fn a_field_that_is_missing_is_named_with_its_place() {
        #[derive(Debug, Deserialize)]
        struct Fields {
            #[expect(dead_code, reason = "only asked for")]
            hidden_size: usize,
        }
        let error = config("{}").unwrap().fields::<Fields>().unwrap_err();
        let said = error.to_string();
        assert!(said.contains("config.json"), "{said}");
        assert!(said.contains("`hidden_size` at line 1 column 2"), "{said}");
    }

    #[test]
    fn an_adapters_configuration_is_told_as_one() {
        let error = config(r#"{"peft_type": "LORA"}"#).unwrap_err();
        assert!(matches!(error, Error::Adapter { .. }), "{error}");
    }
}
