//! The families of models that a checkpoint may belong to. No other file knows them.
//!
//! A family is a crate. It reads its models from the files of `plm-checkpoint`, and says of each
//! checkpoint what `plm-encoder` asks ([`FamilyCheckpoint`]). This library knows one thing of a
//! family: its entry in [`FAMILIES`].

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use plm_checkpoint::{Adapter, ModelFiles, ReleasedModel, weight_files};
use plm_core::{Digest, Dtype, EncoderLoader, Layer, OutputKind, OutputSet, TokenMap};
use plm_encoder::{CpuOptions, FamilyCheckpoint, Loader};
use plm_hub::{Wanted, WeightFiles};

use super::model::most_residues;
use super::{
    AdapterInfo, Architecture, Devices, Model, ModelError, ModelInfo, ModelOrigin, Remedy,
};
use crate::Error;

/// A family of models.
struct Family {
    /// The names are those that people use, in the words of an error.
    name: &'static str,
    /// A `config.json` of this family has one of these as its `model_type`.
    model_types: &'static [&'static str],
    /// The function tells whether these files, which name no `model_type`, are of this family.
    is_in: fn(&ModelFiles) -> bool,
    /// The function lists the released models, the smallest first.
    released: fn() -> Vec<ReleasedModel>,
    /// A model's directory may have these small files beside `config.json`, which are read.
    texts: &'static [&'static str],
    /// The function opens the model in these files, and checks all that can be checked without
    /// reading weights.
    open: fn(&ModelFiles) -> Result<Box<dyn FamilyModel>, Error>,
}

/// All families. If `config.json` has no `model_type`, the first family says what is wrong with it.
const FAMILIES: &[Family] = &[
    Family {
        name: "ESM-2, ESM-1b and ESM-1v",
        model_types: &["esm"],
        // It says what is wrong with files of no family.
        is_in: |_| false,
        released: plm_esm2::released_models,
        texts: &["vocab.txt"],
        open: |files| open_as(plm_esm2::Checkpoint::of_files, files),
    },
    Family {
        name: "ESM C",
        model_types: &["esmc"],
        is_in: plm_esmc::Checkpoint::is_in,
        released: plm_esmc::released_models,
        texts: &[],
        open: |files| open_as(plm_esmc::Checkpoint::of_files, files),
    },
];

/// Opens a checkpoint as one of a family, whose own errors are those of all families.
fn open_as<C: FamilyCheckpoint + 'static>(
    of_files: impl Fn(&ModelFiles) -> Result<C, plm_encoder::Error>,
    files: &ModelFiles,
) -> Result<Box<dyn FamilyModel>, Error> {
    Ok(Box::new(of_files(files).map_err(of_encoder)?))
}

/// The batch size, in tokens, with which the families' kernels fill a GPU.
pub(super) const GPU_BATCH_TOKENS: u32 = plm_encoder::GPU_BATCH_TOKENS;

/// A checkpoint of one of the families, whose weights have not been read yet.
pub(crate) trait FamilyModel: Send {
    /// The model's name.
    fn name(&self) -> &str;

    /// The names of tensors in the model's files that are not used. Tensors that every such model
    /// may have are not listed.
    fn passed_over(&self) -> &[String];

    /// The model's alphabet, which is all that a plan must know of a model.
    fn tokens(&self) -> TokenMap;

    /// The most tokens that a sequence may have, special tokens included; `None` if it may have any
    /// number.
    fn max_sequence_tokens(&self) -> Option<usize>;

    /// Describes the model. This reads all weights, for their digest.
    fn info(&self) -> Result<ModelInfo, Error>;

    /// Refuses outputs that the model can't give in `dtype`. This reads no weights.
    fn check_outputs(&self, dtype: Dtype, outputs: &OutputSet) -> Result<(), Error>;

    /// Makes the loader of every rank's encoder on resolved devices. This reads all weights, for
    /// their digest.
    fn loader(self: Box<Self>, job: &LoaderJob<'_>) -> Result<Arc<dyn EncoderLoader>, Error>;
}

/// What a loader is to load, and where.
pub(crate) struct LoaderJob<'a> {
    pub(super) devices: &'a Devices,
    pub(super) dtype: Dtype,
    pub(super) outputs: &'a OutputSet,
    /// The digest of the adapter that is merged into the weights, if there is one.
    pub(super) adapter: Option<Digest>,
}

/// All released models.
pub(super) fn released() -> Vec<ReleasedModel> {
    let families = FAMILIES.iter();
    families.flat_map(|family| (family.released)()).collect()
}

/// The repository on the hub of a released model that is named without its owner.
pub(super) fn hub_name(name: &str) -> Option<String> {
    let found = released().into_iter().find(|model| model.name == name);
    found.map(|model| model.repository())
}

/// The files that are read of a model of any family.
pub(super) fn wanted() -> Wanted {
    let mut texts: Vec<&str> = FAMILIES
        .iter()
        .flat_map(|family| family.texts)
        .copied()
        .collect();
    // A repository with both is refused as a directory with both is.
    texts.push(ADAPTER_CONFIG);
    texts.sort_unstable();
    texts.dedup();
    Wanted {
        what: "model",
        config: "config.json",
        texts,
        weights: weight_files()
            .map(|(single, index)| WeightFiles {
                single,
                index: Some(index),
            })
            .collect(),
    }
}

/// The file by which an adapter of peft is known.
const ADAPTER_CONFIG: &str = "adapter_config.json";

/// The files of an adapter that is on the hub.
pub(super) fn wanted_of_adapter() -> Wanted {
    let single = |single| WeightFiles {
        single,
        index: None,
    };
    Wanted {
        what: "adapter of peft",
        config: ADAPTER_CONFIG,
        texts: Vec::new(),
        weights: ["adapter_model.safetensors", "adapter_model.bin"]
            .map(single)
            .to_vec(),
    }
}

/// A checkpoint, and where it is from.
pub(crate) struct Opened {
    pub(super) model: Box<dyn FamilyModel>,
    /// The commit of its files on the hub, if they are a snapshot in a hub cache.
    pub(super) revision: Option<String>,
    /// What is merged into its weights.
    pub(super) adapter: Option<Arc<Adapter>>,
}

impl Opened {
    /// The digest of the adapter, of which this reads all tensors.
    pub(super) fn adapter_digest(&self) -> Result<Option<Digest>, Error> {
        let digest = self.adapter.as_ref().map(|adapter| adapter.digest());
        Ok(digest.transpose()?)
    }

    /// Describes the model. This reads all weights, for their digest.
    pub(super) fn info(&self) -> Result<ModelInfo, Error> {
        let adapter = self.adapter.as_ref().zip(self.adapter_digest()?);
        Ok(ModelInfo {
            revision: self.revision.clone(),
            adapter: adapter.map(|(adapter, digest)| AdapterInfo {
                path: adapter.path().to_owned(),
                base: adapter.base().map(|base| base.name.clone()),
                digest: digest.to_string(),
            }),
            ..self.model.info()?
        })
    }
}

/// Opens the checkpoint in a directory or a file with an adapter, and checks all that can be
/// checked without reading weights.
pub(super) fn open(path: &Path, adapter: Option<Arc<Adapter>>) -> Result<Opened, Error> {
    let mut files = ModelFiles::open(path, hub_name)?;
    if let Some(adapter) = &adapter {
        tell_of_other_base(adapter, files.name());
        files = files.with_adapter(Arc::clone(adapter));
    }
    let config = files.config();
    let family = match config.model_type() {
        None => (FAMILIES.iter().find(|family| (family.is_in)(&files))).unwrap_or(&FAMILIES[0]),
        Some(model_type) => FAMILIES
            .iter()
            .find(|family| family.model_types.contains(&model_type))
            .ok_or_else(|| Error::UnknownModelType {
                path: config.path().to_owned(),
                model_type: model_type.to_owned(),
                supported: supported(),
            })?,
    };
    Ok(Opened {
        model: (family.open)(&files)?,
        revision: files.commit().map(str::to_owned),
        adapter,
    })
}

/// The demonstration model inside this library, with an adapter.
pub(super) fn plm_tiny(adapter: Option<Arc<Adapter>>) -> Result<Opened, Error> {
    let model = match &adapter {
        None => plm_esm2::Checkpoint::plm_tiny(),
        Some(adapter) => {
            tell_of_other_base(adapter, Model::PLM_TINY);
            let adapted = plm_esm2::Checkpoint::plm_tiny_with_adapter(Arc::clone(adapter));
            adapted.map_err(of_encoder)?
        }
    };
    Ok(Opened {
        model: Box::new(model),
        revision: None,
        adapter,
    })
}

/// Warns if an adapter was made for a model of another name. Copies of a model have any name, and
/// shapes tell most others apart.
fn tell_of_other_base(adapter: &Adapter, name: &str) {
    let last = |name: &str| name.rsplit('/').next().map(str::to_owned);
    if let Some(base) = adapter.base()
        && last(base.name.trim_end_matches('/')) != last(name)
    {
        tracing::warn!(
            "the adapter {:?} was made for {:?}, and is merged into {name:?}",
            adapter.name(),
            base.name
        );
    }
}

/// The families and their types, in the words of an error.
fn supported() -> String {
    let with_types = |family: &Family| {
        let types = family.model_types.iter();
        let types: Vec<String> = types.map(|name| format!("{name:?}")).collect();
        format!("{} (model_type {})", family.name, types.join(" or "))
    };
    let families: Vec<String> = FAMILIES.iter().map(with_types).collect();
    families.join(", ")
}

/// The kinds of outputs that a model can give.
fn outputs_of(model: &dyn FamilyModel) -> Vec<OutputKind> {
    let gives = |&kind: &OutputKind| {
        let last = OutputSet::new([kind], [Layer::LAST]);
        model.check_outputs(Dtype::F32, &last).is_ok()
    };
    OutputKind::ALL.into_iter().filter(gives).collect()
}

impl<C: FamilyCheckpoint + 'static> FamilyModel for C {
    fn name(&self) -> &str {
        FamilyCheckpoint::name(self)
    }

    fn passed_over(&self) -> &[String] {
        FamilyCheckpoint::passed_over(self)
    }

    fn tokens(&self) -> TokenMap {
        FamilyCheckpoint::tokens(self)
    }

    fn max_sequence_tokens(&self) -> Option<usize> {
        FamilyCheckpoint::max_sequence_tokens(self)
    }

    fn info(&self) -> Result<ModelInfo, Error> {
        let sizes = self.sizes();
        Ok(ModelInfo {
            name: FamilyCheckpoint::name(self).to_owned(),
            revision: None,
            weights_digest: self.weights_digest().map_err(of_encoder)?.to_string(),
            adapter: None,
            architecture: Some(Architecture {
                family: self.family(),
                num_layers: sizes.num_layers,
                hidden_size: sizes.hidden_size,
                num_heads: sizes.num_heads,
                head_dim: sizes.head_dim(),
                most_residues: most_residues(
                    FamilyCheckpoint::max_sequence_tokens(self),
                    &FamilyCheckpoint::tokens(self),
                ),
            }),
            origin: self.origin().map(|origin| ModelOrigin {
                files: origin.files.clone(),
                library: origin.library,
            }),
            outputs: outputs_of(self),
        })
    }

    fn check_outputs(&self, dtype: Dtype, outputs: &OutputSet) -> Result<(), Error> {
        let specs = plm_encoder::output_specs(self, dtype, outputs);
        specs.map(drop).map_err(of_encoder)
    }

    fn loader(self: Box<Self>, job: &LoaderJob<'_>) -> Result<Arc<dyn EncoderLoader>, Error> {
        let dtype = job.dtype;
        let loader = match job.devices {
            Devices::Cuda(ordinals) => Loader::on_gpus(*self, ordinals.clone(), dtype),
            cpu => {
                let lanes = NonZeroUsize::try_from(cpu.world_size()?.get() as usize)
                    .expect("a world has at least one rank");
                Loader::new(*self, CpuOptions::all_cores(lanes), dtype)
            }
        };
        let loader = loader.and_then(|loader| loader.with_outputs(job.outputs));
        Ok(Arc::new(
            loader.map_err(of_encoder)?.with_adapter(job.adapter),
        ))
    }
}

fn of_encoder(error: plm_encoder::Error) -> Error {
    use plm_encoder::Error as Encoder;

    let remedy = match error {
        Encoder::Checkpoint(error) => return error.into(),
        Encoder::NoGpuKernel { .. } => Some(Remedy::Cpu),
        Encoder::NoInt8 { .. } => Some(Remedy::OtherDtype),
        Encoder::NoRoom { .. } | Encoder::NoRoomForF32 { .. } => Some(Remedy::OtherDevices),
        _ => None,
    };
    ModelError::new(error, remedy).into()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The error that refuses a directory with this `config.json`.
    fn refusal(config: &str) -> Error {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("config.json"), config).unwrap();
        match open(directory.path(), None) {
            Ok(opened) => panic!("{} was opened", opened.model.name()),
            Err(error) => error,
        }
    }

    #[test]
    fn no_model_type_is_of_two_families() {
        let types = FAMILIES.iter().flat_map(|family| family.model_types);
        let mut types: Vec<&str> = types.copied().collect();
        let count = types.len();
        types.sort_unstable();
        types.dedup();
        assert_eq!(types.len(), count);
    }

    #[test]
    fn a_released_name_is_one_models() {
        let released = released();
        let mut names: Vec<&str> = released.iter().map(|model| model.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for model in released {
            assert_eq!(hub_name(model.name), Some(model.repository()));
            let name: plm_hub::ModelName = model.repository().parse().unwrap();
            assert_eq!(name.repository(), model.repository());
        }
        assert_eq!(hub_name("esm3"), None);
    }

    #[test]
    fn a_model_of_no_family_is_met_with_those_that_there_are() {
        let error = refusal(r#"{"model_type": "t5\n", "d_model": 1024}"#);
        assert!(error.is_refusal());
        let said = error.to_string();
        let (_, said) = said.split_once("config.json ").unwrap();
        assert_eq!(
            said,
            concat!(
                r#"says model_type "t5\n": what is read here is ESM-2, ESM-1b and ESM-1v "#,
                r#"(model_type "esm"), ESM C (model_type "esmc")"#
            )
        );
    }

    #[test]
    fn a_configuration_without_a_type_is_told_what_it_lacks() {
        for (config, words) in [
            (r#"{"hidden_size": 8}"#, "missing field `model_type`"),
            (
                r#"{"architectures": ["ESMCModel"]}"#,
                r#"architectures ["ESMCModel"]"#,
            ),
            ("not JSON", "is not what transformers writes"),
        ] {
            let error = refusal(config);
            assert!(error.is_refusal());
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn every_error_that_a_setting_helps_against_has_its_remedy() {
        let model = || "m".to_owned();
        let errors = [
            (
                plm_encoder::Error::NoGpuKernel {
                    model: model(),
                    head_dim: 7,
                },
                Remedy::Cpu,
            ),
            (
                plm_encoder::Error::NoInt8 {
                    model: model(),
                    why: plm_encoder::NoInt8::OnCpu,
                },
                Remedy::OtherDtype,
            ),
            (
                plm_encoder::Error::NoRoom {
                    gpu: 0,
                    model: model(),
                    dtype: Dtype::F16,
                    longest_tokens: 0,
                    needed_gib: 2.0,
                    free_gib: 1.0,
                    total_gib: 1.0,
                },
                Remedy::OtherDevices,
            ),
            (
                plm_encoder::Error::NoRoomForF32 {
                    gpu: 0,
                    model: model(),
                    dtype: Dtype::F16,
                    output: "bos/layer_6".to_owned(),
                    cosine: None,
                    longest_tokens: 0,
                    needed_gib: 2.0,
                    free_gib: 1.0,
                    total_gib: 1.0,
                },
                Remedy::OtherDevices,
            ),
        ];
        for (error, remedy) in errors {
            let said = error.to_string();
            match of_encoder(error) {
                Error::Model(error) => {
                    assert_eq!((error.to_string(), error.remedy()), (said, Some(remedy)));
                }
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn a_model_says_what_it_is() {
        let info = plm_tiny(None).unwrap().info().unwrap();
        assert_eq!(info.revision, None);
        let architecture = info.architecture.unwrap();
        assert_eq!((&*info.name, architecture.family), ("plm-tiny", "ESM-2"));
        assert_eq!(architecture.most_residues, None);
        assert_eq!(
            (architecture.num_layers, architecture.hidden_size),
            (6, 128)
        );
        let parts = architecture.num_heads * architecture.head_dim;
        assert_eq!(parts, architecture.hidden_size);
    }
}
