//! Downloads that break off, and go on.

use std::fs;
use std::time::{Duration, Instant};

use plm_hub::Error;
use plm_testkit::{HubFault, HubRequest, sha256};

use crate::{COMMIT, Scene};

const STORED: &str = "GET";

/// The first bytes that the requests to the store of large files asked for.
fn ranges(scene: &Scene) -> Vec<String> {
    let of_store = |request: &HubRequest| {
        let range = request.headers.get("range").cloned().unwrap_or_default();
        request.is_of_store.then_some(range)
    };
    scene.hub.requests().iter().filter_map(of_store).collect()
}

#[test]
fn a_connection_that_is_cut_goes_on_where_it_was() {
    let scene = Scene::new();
    let weights = sha256(&scene.weights);
    scene.hub.fail(STORED, &weights, 1, HubFault::Cut(40_000));
    scene.hub.fail(STORED, &weights, 1, HubFault::Cut(10_000));
    scene.assert_whole(&scene.find().unwrap());
    assert_eq!(ranges(&scene), ["", "bytes=40000-", "bytes=50000-"]);
}

#[test]
fn a_connection_that_stalls_is_given_up_and_goes_on() {
    let scene = Scene::new();
    let weights = sha256(&scene.weights);
    scene.hub.fail(STORED, &weights, 1, HubFault::Stall(40_000));
    let started = Instant::now();
    scene.assert_whole(&scene.find().unwrap());
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(ranges(&scene), ["", "bytes=40000-"]);
}

#[test]
fn a_network_that_is_gone_for_a_moment_is_waited_for() {
    let scene = Scene::new();
    let cut = HubFault::Cut(40_000);
    scene.hub.fail(STORED, &sha256(&scene.weights), 1, cut);
    // The first request for the file is well. The second is sent to where nobody listens.
    let file = format!("resolve/{COMMIT}/model.safetensors");
    let nowhere = HubFault::Redirect("http://127.0.0.1:1/x".to_owned());
    scene.hub.fail("GET", &file, 1, HubFault::Whole);
    scene.hub.fail("GET", &file, 1, nowhere);
    scene.assert_whole(&scene.find().unwrap());
    assert_eq!(ranges(&scene), ["", "bytes=40000-"]);
}

#[test]
fn a_slow_connection_is_waited_for() {
    let scene = Scene::new();
    let slow = HubFault::Slow(20_000, Duration::from_millis(700));
    scene.hub.fail(STORED, &sha256(&scene.weights), 1, slow);
    let started = Instant::now();
    scene.assert_whole(&scene.find().unwrap());
    assert!(
        started.elapsed() > Duration::from_secs(2),
        "longer than the timeout"
    );
    assert_eq!(ranges(&scene), [""]);
}

#[test]
fn the_next_process_goes_on_with_what_is_there() {
    let scene = Scene::new();
    let weights = sha256(&scene.weights);
    scene.hub.fail(STORED, &weights, 1, HubFault::Cut(40_000));
    scene.hub.fail(STORED, &weights, 100, HubFault::Cut(0));
    let error = scene.find().unwrap_err();
    assert!(
        matches!(
            error,
            Error::BrokenOff {
                received: 40_000,
                ..
            }
        ),
        "{error}"
    );
    let blobs = scene.repository().join("blobs");
    let incomplete = blobs.join(format!("{weights}.incomplete"));
    assert_eq!(fs::read(&incomplete).unwrap(), scene.weights[..40_000]);
    assert!(!blobs.join(&weights).exists() && scene.cached().is_none());
    assert!(!scene.repository().join("refs/main").exists());
    scene.hub.forget();
    scene.assert_whole(&scene.find().unwrap());
    assert_eq!(ranges(&scene), ["bytes=40000-"]);
}

#[test]
fn a_server_without_ranges_sends_all_again() {
    let scene = Scene::new();
    let weights = sha256(&scene.weights);
    scene.hub.fail(STORED, &weights, 1, HubFault::Cut(40_000));
    scene.hub.fail(STORED, &weights, 1, HubFault::Whole);
    scene.assert_whole(&scene.find().unwrap());
}

#[test]
fn what_is_there_and_is_not_the_file_is_downloaded_anew() {
    let scene = Scene::new();
    let weights = sha256(&scene.weights);
    let blobs = scene.repository().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let mut whole = scene.weights.clone();
    whole[5] ^= 1;
    let longer = [&scene.weights[..], b"more"].concat();
    for there in [&whole[..], &longer, &[0; 100], &[]] {
        fs::write(blobs.join(format!("{weights}.incomplete")), there).unwrap();
        scene.assert_whole(&scene.find().unwrap());
        fs::remove_file(blobs.join(&weights)).unwrap();
    }
}

#[test]
fn a_server_that_has_less_than_is_there_sends_all_again() {
    let scene = Scene::new();
    let weights = sha256(&scene.weights);
    // It does not say how large the file is, so only the server can tell that this is too much.
    let unsized_file = HubFault::Header("X-Linked-Size", None);
    scene.hub.fail("HEAD", "model.safetensors", 1, unsized_file);
    let blobs = scene.repository().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(
        blobs.join(format!("{weights}.incomplete")),
        vec![0; 200_000],
    )
    .unwrap();
    scene.assert_whole(&scene.find().unwrap());
    assert_eq!(ranges(&scene), ["bytes=200000-", ""]);
}

#[test]
fn what_passes_is_tried_again() {
    for status in [429, 500, 503] {
        let scene = Scene::new();
        for (method, part) in [
            ("GET", "/api/models/"),
            ("HEAD", "config.json"),
            ("HEAD", "model."),
        ] {
            scene
                .hub
                .fail(method, part, 2, HubFault::Status(status, ""));
        }
        let weights = sha256(&scene.weights);
        scene
            .hub
            .fail(STORED, &weights, 2, HubFault::Status(status, ""));
        scene.assert_whole(&scene.find().unwrap());
    }
}

#[test]
fn what_does_not_pass_ends_with_one_sentence() {
    let scene = Scene::new();
    scene
        .hub
        .fail("GET", "/api/models/", 100, HubFault::Status(503, ""));
    let said = scene.find().unwrap_err().to_string();
    assert!(said.contains("can't be reached (status 503)"), "{said}");
    assert!(
        said.contains("`hf download facebook/toy --revision main`"),
        "{said}"
    );
    assert!(!said.contains('\n'));
}

#[test]
fn a_host_that_is_not_there_is_told_at_once() {
    let scene = Scene::new();
    let mut config = scene.config();
    config.pause = Duration::from_secs(60);
    // Nobody listens on this port of the loopback.
    for endpoint in ["http://127.0.0.1:1", "http://no-such-host.invalid"] {
        config.endpoint = endpoint.to_owned();
        let hub = plm_hub::Hub::new(config.clone());
        let started = Instant::now();
        let error = hub
            .find(&crate::NAME.parse().unwrap(), &crate::wanted())
            .unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(30));
        let said = error.to_string();
        assert!(matches!(error, Error::Unreachable { .. }), "{said}");
        assert!(
            said.contains(&format!("{endpoint}/facebook/toy/tree/main")),
            "{said}"
        );
    }
}
