//! Who may have a model, and where a token goes.

use std::fs;

use plm_hub::{Error, Hub, Token};
use plm_testkit::HubFault;

use crate::{COMMIT, CONFIG, NAME, Scene, wanted};

#[test]
fn a_model_that_is_not_there_is_no_model() {
    let scene = Scene::new();
    let error = scene.find_as("facebook/other").unwrap_err();
    assert!(
        matches!(
            error,
            Error::NoSuchModel {
                has_token: false,
                ..
            }
        ),
        "{error}"
    );
    let error = scene.find_as("facebook/toy@nowhere").unwrap_err();
    let said = error.to_string();
    assert!(
        said.ends_with(r#"/facebook/toy has no revision "nowhere""#),
        "{said}"
    );
    let error = scene
        .find_as(&format!("facebook/toy@{}", "0".repeat(40)))
        .unwrap_err();
    assert!(matches!(error, Error::NoSuchRevision { .. }), "{error}");
    assert!(!scene.cache().exists());
}

#[test]
fn a_repository_without_a_model_is_refused_before_anything_is_downloaded() {
    let scene = Scene::new();
    scene
        .hub
        .put(NAME, COMMIT, &["main"], &[("README.md", b"")]);
    let error = scene.find().unwrap_err();
    assert!(
        matches!(
            error,
            Error::NoConfig {
                file: "config.json",
                ..
            }
        ),
        "{error}"
    );
    let files: [(&str, &[u8]); 4] = [
        ("config.json", CONFIG),
        ("pytorch_model-00001-of-00002.bin", b""),
        ("pytorch_model-00002-of-00002.bin", b""),
        ("training_args.bin", b""),
    ];
    scene.hub.put(NAME, COMMIT, &["main"], &files);
    let said = scene.find().unwrap_err().to_string();
    assert_eq!(
        said,
        format!(
            "facebook/toy has no model.safetensors or model.safetensors.index.json at commit \
             {COMMIT}, only pytorch_model-00001-of-00002.bin and 1 more like it, which are not read"
        )
    );
    assert!(!scene.cache().exists());
}

#[test]
fn a_token_opens_a_private_model_and_goes_to_the_hub_alone() {
    let scene = Scene::new();
    scene.hub.lock("hf_secret");
    let error = scene.find().unwrap_err();
    assert!(
        matches!(
            error,
            Error::NoSuchModel {
                has_token: false,
                ..
            }
        ),
        "{error}"
    );
    let file = scene.scratch.path().join("token");
    fs::write(&file, "hf_secret\n").unwrap();
    let mut of_file = scene.config();
    of_file.token_file = Some(file);
    let mut given = of_file.clone();
    given.token = Token::new("hf_wrong");
    let error = Hub::new(given)
        .find(&NAME.parse().unwrap(), &wanted())
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::NoSuchModel {
                has_token: true,
                ..
            }
        ),
        "{error}"
    );
    assert!(!error.to_string().contains("hf_wrong"));
    scene.hub.forget();
    let snapshot = Hub::new(of_file)
        .find(&NAME.parse().unwrap(), &wanted())
        .unwrap();
    scene.assert_whole(&snapshot);
    for request in scene.hub.requests() {
        let token = request.headers.get("authorization").map(String::as_str);
        let expected = (!request.is_of_store).then_some("Bearer hf_secret");
        assert_eq!(token, expected, "{request:?}");
    }
}

#[test]
fn a_gated_model_says_so() {
    for (status, code) in [(401, "GatedRepo"), (403, "GatedRepo"), (403, "")] {
        let scene = Scene::new();
        scene
            .hub
            .fail("HEAD", "config.json", 1, HubFault::Status(status, code));
        let error = scene.find().unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{error}");
        assert!(error.to_string().contains("accept its terms there"));
    }
}

#[test]
fn a_cache_that_can_not_be_written_is_named() {
    let scene = Scene::new();
    fs::write(scene.cache(), "a file").unwrap();
    let error = scene.find().unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert!(error.to_string().contains(scene.cache().to_str().unwrap()));
}

#[test]
fn an_endpoint_or_a_proxy_that_is_none_is_refused() {
    let scene = Scene::new();
    for endpoint in ["", "huggingface.co", "ftp://x", "https://"] {
        let mut config = scene.config();
        config.endpoint = endpoint.to_owned();
        let error = Hub::new(config)
            .find(&NAME.parse().unwrap(), &wanted())
            .unwrap_err();
        assert!(
            matches!(error, Error::Endpoint { .. }),
            "{endpoint}: {error}"
        );
    }
    let mut config = scene.config();
    config.proxy = Some("no proxy".to_owned());
    let error = Hub::new(config)
        .find(&NAME.parse().unwrap(), &wanted())
        .unwrap_err();
    assert!(matches!(error, Error::Proxy), "{error}");
}

#[test]
fn requests_go_through_the_proxy_but_for_hosts_without_one() {
    let scene = Scene::new();
    let mut config = scene.config();
    // Nobody listens there.
    config.proxy = Some("http://127.0.0.1:1".to_owned());
    let error = Hub::new(config.clone())
        .find(&NAME.parse().unwrap(), &wanted())
        .unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    config.no_proxy = Some("localhost, 127.0.0.1".to_owned());
    let snapshot = Hub::new(config)
        .find(&NAME.parse().unwrap(), &wanted())
        .unwrap();
    scene.assert_whole(&snapshot);
}
