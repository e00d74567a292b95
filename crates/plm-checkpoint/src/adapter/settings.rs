//! Reads and checks `adapter_config.json`, as peft writes it for LoRA.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::AdapterBase;
use super::patterns::{self, CompiledNumbers, Numbers, OneOrMany};
use super::python_re::{Pattern, TooSlow};
use crate::Error;

/// The most layers in `layers_to_transform`, and names in any other list.
const MAX_NAMES: usize = 1 << 16;

/// Fields that don't matter to a merged model, or that [`File`] reads.
const KNOWN: [&str; 26] = [
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "eva_config",
    "exclude_modules",
    // peft takes it for false where the module is a `Linear`, as all of these models are.
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_dora",
    "use_rslora",
];

/// What `adapter_config.json` says.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    path: PathBuf,
    pub(super) base: Option<AdapterBase>,
    pub(super) use_dora: bool,
    rank: f64,
    alpha: f64,
    ranks: CompiledNumbers,
    alphas: CompiledNumbers,
    is_rank_stabilized: bool,
    targets: Targets,
    excluded: Option<Targets>,
    layers: Option<Layers>,
    /// Matches the modules of which the adapter has a copy of its own.
    saved: Vec<Pattern>,
}

/// The modules that a setting names.
#[derive(Clone, Debug)]
enum Targets {
    /// Those with one of these names, or that end with one after a dot.
    Names(Vec<String>),
    Pattern(Pattern),
    /// Those that multiply with a matrix. Which these are, only the model's code says.
    AllLinear,
}

/// The layers that LoRA is in, if not all.
#[derive(Clone, Debug)]
struct Layers {
    numbers: Vec<u64>,
    /// The first that matches finds a layer's number in a module's name.
    patterns: Vec<Pattern>,
}

/// The fields of `adapter_config.json` that decide what is merged.
#[derive(Deserialize)]
struct File {
    base_model_name_or_path: Option<String>,
    revision: Option<String>,
    r: f64,
    lora_alpha: f64,
    modules_to_save: Option<Vec<String>>,
    #[serde(default)]
    rank_pattern: Numbers,
    #[serde(default)]
    alpha_pattern: Numbers,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    bias: Option<String>,
    #[serde(default)]
    init_lora_weights: Value,
}

impl Settings {
    /// Takes the text of the file at `path`.
    ///
    /// # Errors
    /// [`Error::Json`] if it is not what peft writes, [`Error::AdapterSetting`] for a value that
    /// this crate does not implement.
    pub(super) fn from_json(json: &[u8], path: &Path) -> Result<Self, Error> {
        let not_json = |problem| Error::Json {
            path: path.to_owned(),
            problem,
        };
        let all: BTreeMap<String, Value> = serde_json::from_slice(json).map_err(not_json)?;
        let refused = |field: &str, supported: &str| Error::AdapterSetting {
            path: path.to_owned(),
            field: field.to_owned(),
            found: all.get(field).unwrap_or(&Value::Null).to_string(),
            supported: supported.to_owned(),
        };
        // Checked first: other kinds of adapters lack fields that they do not need.
        if all.get("peft_type").and_then(Value::as_str) != Some("LORA") {
            return Err(refused("peft_type", "\"LORA\""));
        }
        let is_neutral = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(values) => values.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            _ => false,
        };
        let unknown =
            (all.iter()).find(|(name, value)| !KNOWN.contains(&&***name) && !is_neutral(value));
        if let Some((name, _)) = unknown {
            return Err(refused(name, "null or false"));
        }
        let file: File = serde_json::from_slice(json).map_err(not_json)?;
        // These begin with the matrices as they are. The others change them first.
        let init = &file.init_lora_weights;
        let begins_with_the_base = init.is_null() || init.is_boolean();
        if !begins_with_the_base && !["gaussian", "eva", "orthogonal"].iter().any(|i| init == i) {
            let words = "true, false, \"gaussian\", \"eva\" or \"orthogonal\"";
            return Err(refused("init_lora_weights", words));
        }
        if !["none", "all", "lora_only"].contains(&file.bias.as_deref().unwrap_or("none")) {
            return Err(refused("bias", "\"none\", \"all\" or \"lora_only\""));
        }
        if !(file.r >= 1.0 && file.r.fract() == 0.0) {
            return Err(refused("r", "a whole number from 1 on"));
        }
        if !file.lora_alpha.is_finite() {
            return Err(refused("lora_alpha", "a number"));
        }
        let of = |field: &'static str| {
            let refused = &refused;
            move |supported: String| refused(field, &supported)
        };
        let one_or_many = OneOrManyOf { all: &all };
        let targets = one_or_many.of::<String>("target_modules");
        let targets = targets.and_then(|targets| targets.ok_or_else(|| NAMES.to_owned()));
        let targets = targets.and_then(|targets| Targets::of("target_modules", targets));
        let excluded = one_or_many.of("exclude_modules").and_then(|excluded| {
            excluded
                .map(|excluded| Targets::of("exclude_modules", excluded))
                .transpose()
        });
        let numbers = one_or_many.of("layers_to_transform");
        let numbers = numbers.map_err(of("layers_to_transform"))?;
        let names = one_or_many.of("layers_pattern");
        let layers = names.and_then(|names| Layers::of(numbers, names));
        let saved = file.modules_to_save.unwrap_or_default().into_iter();
        let saved = saved.map(|name| format!(r"(^|.*\.){name}($|\..*)"));
        let saved = patterns::all("modules_to_save", saved);
        let [ranks, alphas] = [
            ("rank_pattern", &file.rank_pattern),
            ("alpha_pattern", &file.alpha_pattern),
        ]
        .map(|(field, numbers)| numbers.compile(field).map_err(of(field)));
        Ok(Self {
            path: path.to_owned(),
            base: (file.base_model_name_or_path)
                .filter(|name| !name.is_empty())
                .map(|name| AdapterBase {
                    name,
                    revision: file.revision.filter(|revision| !revision.is_empty()),
                }),
            use_dora: file.use_dora,
            rank: file.r,
            alpha: file.lora_alpha,
            ranks: ranks?,
            alphas: alphas?,
            is_rank_stabilized: file.use_rslora,
            targets: targets.map_err(of("target_modules"))?,
            excluded: excluded.map_err(of("exclude_modules"))?,
            layers: layers.map_err(of("layers_pattern"))?,
            saved: saved.map_err(of("modules_to_save"))?,
        })
    }

    /// The rank of LoRA in a module.
    pub(super) fn rank(&self, module: &str) -> Result<f64, Error> {
        let rank = self.ranks.of(module).map_err(|slow| self.refused(slow))?;
        Ok(rank.unwrap_or(self.rank))
    }

    /// The factor of what LoRA adds in a module.
    pub(super) fn scale(&self, module: &str) -> Result<f32, Error> {
        let alpha = self.alphas.of(module).map_err(|slow| self.refused(slow))?;
        let (rank, alpha) = (self.rank(module)?, alpha.unwrap_or(self.alpha));
        let scale = match self.is_rank_stabilized {
            true => alpha / rank.sqrt(),
            false => alpha / rank,
        };
        Ok(scale as f32)
    }

    /// Whether the adapter has its own copy of a module, under `modules_to_save`.
    pub(super) fn is_saved(&self, module: &str) -> Result<bool, Error> {
        patterns::any(&self.saved, module).map_err(|slow| self.refused(slow))
    }

    /// Whether LoRA is in a module: `check_target_module_exists`. `None` if only the model's code
    /// can tell.
    pub(super) fn is_target(&self, module: &str) -> Result<Option<bool>, Error> {
        self.find_target(module).map_err(|slow| self.refused(slow))
    }

    fn find_target(&self, module: &str) -> Result<Option<bool>, TooSlow> {
        if let Some(excluded) = &self.excluded
            && excluded.has(module)?
        {
            return Ok(Some(false));
        }
        if patterns::any(&self.saved, module)? {
            return Ok(Some(false));
        }
        match &self.targets {
            Targets::AllLinear => Ok(None),
            targets if !targets.has(module)? => Ok(Some(false)),
            // Of a name that is given in full, peft does not ask for the layer.
            Targets::Names(names) if names.iter().any(|name| name == module) => Ok(Some(true)),
            _ => match &self.layers {
                None => Ok(Some(true)),
                Some(layers) => layers.have(module).map(Some),
            },
        }
    }

    /// The error for a pattern that takes too long.
    fn refused(&self, slow: TooSlow) -> Error {
        Error::AdapterSetting {
            path: self.path.clone(),
            field: slow.field.to_owned(),
            found: Value::from(slow.text).to_string(),
            supported: TooSlow::supported(),
        }
    }
}

/// What a setting may be that has names.
const NAMES: &str = "a name or a list of names";

/// Reads settings that have one or several of a kind.
struct OneOrManyOf<'a> {
    all: &'a BTreeMap<String, Value>,
}

impl OneOrManyOf<'_> {
    /// The setting of this name; `None` if it is not there.
    fn of<T: DeserializeOwned>(&self, field: &str) -> Result<Option<OneOrMany<T>>, String> {
        let value = self.all.get(field).filter(|value| !value.is_null());
        let values = value.map(|value| serde_json::from_value(value.clone()));
        values.transpose().map_err(|_| match field {
            "layers_to_transform" => "a number of a layer or a list of such numbers".to_owned(),
            _ => NAMES.to_owned(),
        })
    }
}

impl Targets {
    fn of(field: &'static str, setting: OneOrMany<String>) -> Result<Self, String> {
        match setting {
            OneOrMany::Many(names) if names.len() > MAX_NAMES => {
                Err(format!("at most {MAX_NAMES} names"))
            }
            OneOrMany::Many(names) => Ok(Self::Names(names)),
            OneOrMany::One(word) if word.eq_ignore_ascii_case("all-linear") => Ok(Self::AllLinear),
            OneOrMany::One(pattern) => Ok(Self::Pattern(Pattern::whole(field, &pattern)?)),
        }
    }

    fn has(&self, module: &str) -> Result<bool, TooSlow> {
        match self {
            Self::Names(names) => Ok(patterns::ends_with(module, names)),
            Self::Pattern(pattern) => pattern.is_match(module),
            Self::AllLinear => Ok(false),
        }
    }
}

impl Layers {
    /// Where LoRA is, if not in all layers.
    fn of(
        numbers: Option<OneOrMany<u64>>,
        names: Option<OneOrMany<String>>,
    ) -> Result<Option<Self>, String> {
        let numbers = match numbers {
            None => return Ok(None),
            Some(OneOrMany::One(number)) => vec![number],
            Some(OneOrMany::Many(numbers)) if numbers.is_empty() => return Ok(None),
            Some(OneOrMany::Many(numbers)) => numbers,
        };
        let names = match names {
            None => Vec::new(),
            Some(OneOrMany::One(name)) if name.is_empty() => Vec::new(),
            Some(OneOrMany::One(name)) => vec![name],
            Some(OneOrMany::Many(names)) => names,
        };
        let patterns: Vec<String> = match &names[..] {
            [] => vec![r".*?\.[^.]*\.(?P<idx>\d+)\.".to_owned()],
            names => {
                let pattern = |name| format!(r"(?:^|.*?\.){name}\.(?P<idx>\d+)\.");
                names.iter().map(pattern).collect()
            }
        };
        Ok(Some(Self {
            numbers,
            patterns: patterns::all("layers_pattern", patterns.into_iter())?,
        }))
    }

    fn have(&self, module: &str) -> Result<bool, TooSlow> {
        for pattern in &self.patterns {
            if let Some(number) = pattern.group(module, "idx")? {
                let number = number.and_then(|number| number.parse().ok());
                return Ok(number.is_some_and(|number| self.numbers.contains(&number)));
            }
        }
        Ok(false)
    }
}
