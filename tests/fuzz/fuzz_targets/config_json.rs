//! A `config.json` from elsewhere: it is refused, or describes a model whose sizes can be computed
//! with.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use plm_checkpoint::ConfigFile;
use plm_esm2::Config;

fuzz_target!(|data: &[u8]| {
    let read = ConfigFile::from_json(data, Path::new("config.json"))
        .map_err(plm_esm2::Error::from)
        .and_then(|file| Config::of_file(&file));
    match read {
        Ok(config) => {
            assert_eq!(config.head_dim() * config.num_heads, config.hidden_size);
            assert!(config.head_dim().is_multiple_of(4));
            assert!(config.layer_norm_eps.is_finite() && config.layer_norm_eps > 0.0);
            // The largest tensor of all layers: what no machine holds was not to be accepted.
            let largest = config.hidden_size.max(config.ffn_size);
            let numbers = largest
                .checked_mul(config.hidden_size)
                .and_then(|numbers| numbers.checked_mul(config.num_layers));
            assert!(numbers.is_some_and(|numbers| numbers < 1 << 60));
        }
        Err(error) => assert!(error.to_string().contains("config.json"), "{error}"),
    }
});
