//! Reads the `config.json` of any model.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Error;

/// A `config.json`: the model's type, and fields that only its family understands.
///
/// ```
/// use std::path::Path;
/// use plm_checkpoint::ConfigFile;
///
/// #[derive(serde::Deserialize)]
/// struct Fields {
///     hidden_size: usize,
/// }
///
/// let json = r#"{"model_type": "toy", "hidden_size": 8}"#;
/// let config = ConfigFile::from_json(json, Path::new("config.json"))?;
/// assert_eq!(config.model_type(), Some("toy"));
/// assert_eq!(config.fields::<Fields>()?.hidden_size, 8);
/// # Ok::<(), plm_checkpoint::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ConfigFile {
    path: PathBuf,
    /// The file's bytes, which may be no JSON.
    json: Vec<u8>,
    model_type: Option<String>,
    is_pickled: bool,
}

/// The fields that are read of any model's file.
#[derive(Deserialize)]
struct Known {
    model_type: Option<String>,
    #[serde(default)]
    peft_type: Option<String>,
}

impl ConfigFile {
    /// Takes the text of a `config.json`. Errors name `path`.
    ///
    /// # Errors
    /// [`Error::Adapter`] if it is the file of an adapter of peft. If it is no JSON, only
    /// [`fields`](Self::fields) says so.
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
            is_pickled: false,
        })
    }

    /// Takes what the file of PyTorch at `path` has besides tensors.
    pub(crate) fn of_pickle(values: &Value, path: &Path) -> Result<Self, Error> {
        let config = Self::from_json(values.to_string(), path)?;
        Ok(Self {
            is_pickled: true,
            ..config
        })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is no `config.json`, but what a file of PyTorch has besides tensors.
    pub fn is_pickled(&self) -> bool {
        self.is_pickled
    }

    /// The field `model_type`, which names the model's family; `None` if the file has none that is
    /// a string.
    pub fn model_type(&self) -> Option<&str> {
        self.model_type.as_deref()
    }

    /// The fields of `T`.
    ///
    /// # Errors
    /// [`Error::Json`], with line and column, if the file is not JSON, lacks a field, or has one of
    /// another type.
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
    fn a_model_type_is_a_string_or_missing() {
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
    fn an_adapters_configuration_is_recognized() {
        let error = config(r#"{"peft_type": "LORA"}"#).unwrap_err();
        assert!(matches!(error, Error::Adapter { .. }), "{error}");
    }
}
