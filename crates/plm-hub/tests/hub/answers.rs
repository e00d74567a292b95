//! Answers that lie.

use plm_hub::Error;
use plm_testkit::{HubFault, sha256};

use crate::{COMMIT, CONFIG, NAME, Scene, names};

/// What is left in the cache after a refusal, below the model's directory: nothing has a final
/// name.
#[track_caller]
fn assert_nothing_is_there(scene: &Scene) {
    let weights = sha256(&scene.weights);
    let blobs = names(&scene.repository().join("blobs"));
    assert!(
        !blobs.iter().any(|name| name.contains(&weights)),
        "{blobs:?}"
    );
    assert!(!scene.repository().join("refs").exists());
    assert_eq!(scene.cached(), None);
    let outside = names(scene.scratch.path());
    assert!(outside.iter().all(|name| name == "cache"), "{outside:?}");
    scene.hub.forget();
    scene.assert_whole(&scene.find().unwrap());
}

#[test]
fn a_listing_that_is_none_is_refused() {
    for (body, words) in [
        ("<!doctype html><html>log in", "it sends a web page"),
        ("{", "its list of files is not read"),
        ("[]", "its list of files is not read"),
        (r#"{"siblings": []}"#, "missing field `sha`"),
        (
            r#"{"sha": "../../../etc"}"#,
            r#""../../../etc" is no commit"#,
        ),
        (r#"{"sha": "main"}"#, r#""main" is no commit"#),
    ] {
        let scene = Scene::new();
        scene
            .hub
            .fail("GET", "/api/models/", 1, HubFault::Body(body.into()));
        let said = scene.find().unwrap_err().to_string();
        assert!(said.contains("does not answer as a hub does"), "{said}");
        assert!(said.contains(words), "no {words:?} in {said}");
        assert_nothing_is_there(&scene);
    }
}

#[test]
fn hostile_names_in_a_listing_are_never_written() {
    let scene = Scene::new();
    let listing = format!(
        r#"{{"sha": "{COMMIT}", "siblings": [{{"rfilename": "../../../evil.safetensors"}},
            {{"rfilename": "/evil"}}, {{"rfilename": "config.json"}}]}}"#
    );
    scene
        .hub
        .fail("GET", "/api/models/", 1, HubFault::Body(listing.into()));
    let error = scene.find().unwrap_err();
    assert!(matches!(error, Error::NoWeights { .. }), "{error}");
    assert_nothing_is_there(&scene);
}

#[test]
fn hostile_shards_are_refused() {
    for shard in [
        "../../../evil.safetensors",
        "/evil.safetensors",
        "",
        "..",
        "absent.safetensors",
    ] {
        let scene = Scene::new();
        let index = format!(r#"{{"weight_map": {{"a": "{shard}"}}}}"#);
        let files: [(&str, &[u8]); 3] = [
            ("config.json", CONFIG),
            ("model.safetensors.index.json", index.as_bytes()),
            ("../../../evil.safetensors", b"evil"),
        ];
        scene.hub.put(NAME, COMMIT, &["main"], &files);
        let error = scene.find().unwrap_err();
        assert!(matches!(error, Error::Shard { .. }), "{shard:?}: {error}");
        assert_eq!(names(scene.scratch.path()), ["cache"]);
    }
    let scene = Scene::new();
    let files: [(&str, &[u8]); 2] = [
        ("config.json", CONFIG),
        ("model.safetensors.index.json", b"[]"),
    ];
    scene.hub.put(NAME, COMMIT, &["main"], &files);
    assert!(matches!(scene.find(), Err(Error::Index { .. })));
}

#[test]
fn a_file_without_a_digest_is_refused() {
    for (tag, words) in [
        (None, "it gives no digest of the file"),
        (
            Some("\"../../../../evil\"".to_owned()),
            "is no digest of the file",
        ),
        (Some("W/\"5-abc\"".to_owned()), "is no digest of the file"),
    ] {
        let scene = Scene::new();
        scene
            .hub
            .fail("HEAD", "config.json", 1, HubFault::Header("ETag", tag));
        let said = scene.find().unwrap_err().to_string();
        assert!(said.contains(words), "{said}");
        assert_nothing_is_there(&scene);
    }
}

#[test]
fn another_commit_is_refused() {
    let scene = Scene::new();
    let other = HubFault::Header("X-Repo-Commit", Some("0".repeat(40)));
    scene.hub.fail("HEAD", "model.safetensors", 1, other);
    let said = scene.find().unwrap_err().to_string();
    assert!(said.contains("it is asked for commit"), "{said}");
    assert_nothing_is_there(&scene);
}

#[test]
fn another_content_is_refused() {
    let scene = Scene::new();
    let weights = sha256(&scene.weights);
    scene.hub.fail("GET", &weights, 1, HubFault::Flip);
    let error = scene.find().unwrap_err();
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
    assert_nothing_is_there(&scene);
    let scene = Scene::new();
    scene.hub.fail("GET", "config.json", 1, HubFault::Flip);
    let error = scene.find().unwrap_err();
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
    assert_nothing_is_there(&scene);
}

#[test]
fn another_size_is_refused() {
    // Less than comes, and more than comes.
    for bytes in [99_999, 100_001] {
        let scene = Scene::new();
        let size = HubFault::Header("X-Linked-Size", Some(bytes.to_string()));
        scene.hub.fail("HEAD", "model.safetensors", 1, size);
        let error = scene.find().unwrap_err();
        let is_told = matches!(error, Error::WrongSize { expected, .. } if expected == bytes);
        assert!(is_told, "{error}");
        assert_nothing_is_there(&scene);
    }
}

#[test]
fn a_text_of_many_bytes_is_refused() {
    let scene = Scene::new();
    let bytes = HubFault::Header("Content-Length", Some((1_u64 << 40).to_string()));
    scene.hub.fail("HEAD", "vocab.txt", 1, bytes);
    let error = scene.find().unwrap_err();
    assert!(matches!(error, Error::TextTooLarge { .. }), "{error}");
    assert_nothing_is_there(&scene);
}

#[test]
fn a_text_that_does_not_end_is_refused() {
    let scene = Scene::new();
    let endless = vec![b'x'; (1 << 24) + 1];
    let files: [(&str, &[u8]); 2] = [("config.json", &endless), ("model.safetensors", b"")];
    scene.hub.put(NAME, COMMIT, &["main"], &files);
    let size = HubFault::Header("Content-Length", None);
    scene.hub.fail("HEAD", "config.json", 1, size);
    let error = scene.find().unwrap_err();
    assert!(matches!(error, Error::TextTooLarge { .. }), "{error}");
    assert_eq!(
        names(&scene.repository().join("blobs")),
        Vec::<String>::new()
    );
}

#[test]
fn more_than_the_disk_has_room_for_is_refused() {
    let scene = Scene::new();
    let bytes = HubFault::Header("X-Linked-Size", Some((1_u64 << 60).to_string()));
    scene.hub.fail("HEAD", "model.safetensors", 1, bytes);
    let error = scene.find().unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    assert_nothing_is_there(&scene);
}

#[test]
fn redirects_are_followed_as_far_as_they_lead_somewhere() {
    let scene = Scene::new();
    // A repository that was renamed.
    let moved = HubFault::Redirect(format!("/api/models/facebook/toy/revision/main?{}", "x=1"));
    scene.hub.fail("GET", "/api/models/facebook/old", 1, moved);
    for _ in 0..4 {
        let part = "/facebook/old/resolve";
        for (method, file) in [
            ("HEAD", "config.json"),
            ("GET", "config.json"),
            ("HEAD", "vocab.txt"),
            ("GET", "vocab.txt"),
            ("HEAD", "model.safetensors"),
            ("GET", "model.safetensors"),
        ] {
            let to = format!("/facebook/toy/resolve/{COMMIT}/{file}");
            scene.hub.fail(
                method,
                &format!("{part}/{COMMIT}/{file}"),
                1,
                HubFault::Redirect(to),
            );
        }
    }
    let snapshot = scene.find_as("facebook/old").unwrap();
    assert_eq!(snapshot.commit, COMMIT);
    for to in [
        "http://[",
        "file:///etc/passwd",
        "/api/models/facebook/toy/revision/main",
    ] {
        let scene = Scene::new();
        scene.hub.fail(
            "GET",
            "/api/models/",
            100,
            HubFault::Redirect(to.to_owned()),
        );
        let error = scene.find().unwrap_err();
        assert!(matches!(error, Error::NotAHub { .. }), "{to}: {error}");
        assert_nothing_is_there(&scene);
    }
}
