//! Downloads a model into the cache.

mod address;
mod blob;
mod client;
mod digest;
mod layout;

use std::fs;
use std::path::Path;

use client::{Client, Remote};
use layout::Layout;

use crate::hub::Event;
use crate::wanted::{MAX_TEXT_BYTES, is_plain, shards};
use crate::{Error, Hub, ModelName, Snapshot, Wanted};

/// Downloads what the cache lacks of a model. The ref of its revision is written last, so until
/// then the revision stays what it was.
pub(crate) fn download(hub: &Hub, name: &ModelName, kinds: &[Wanted]) -> Result<Snapshot, Error> {
    let client = Client::new(hub, name, kinds)?;
    let listing = client.listing()?;
    let commit = &listing.commit;
    let has = |file: &str| listing.files.iter().any(|listed| listed == file);
    let mut with_config = kinds.iter().filter(|wanted| has(wanted.config));
    let is_whole = |wanted: &&Wanted| wanted.form(has).is_some();
    let Some(wanted) = (with_config.clone().find(is_whole)).or_else(|| with_config.next()) else {
        return Err(kinds[0].no_config(name, commit));
    };
    let Some(form) = wanted.form(has) else {
        return Err(Error::NoWeights {
            name: name.repository().to_owned(),
            commit: commit.clone(),
            wanted: wanted.weights_in_words(),
            found: listing
                .files
                .into_iter()
                .filter(|file| is_weights(file))
                .collect(),
        });
    };
    let layout = Layout::create(hub.config(), name, commit)?;
    let snapshot = Snapshot {
        dir: layout.snapshot_dir(),
        commit: commit.clone(),
    };
    let index = form.index.filter(|_| !has(form.single));
    let mut texts = vec![wanted.config];
    texts.extend(wanted.texts.iter().filter(|text| has(text)));
    texts.extend(index);
    for file in texts {
        if snapshot.dir.join(file).is_file() {
            continue;
        }
        let remote = Remote {
            most_bytes: MAX_TEXT_BYTES,
            ..client.remote(commit, file)?
        };
        remote.check_size(remote.bytes.unwrap_or(0))?;
        blob::fetch(&client, &layout, &remote, &mut |_| {})?;
    }
    let weights = match index {
        Some(index) => shards_of(&snapshot.dir.join(index), name, &has)?,
        None => vec![form.single.to_owned()],
    };
    fetch_weights(hub, &client, &layout, commit, &weights)?;
    layout.write_ref(name, commit)?;
    Ok(snapshot)
}

/// The shards that an index names, each a file of the repository.
fn shards_of(
    index: &Path,
    name: &ModelName,
    has: &impl Fn(&str) -> bool,
) -> Result<Vec<String>, Error> {
    let shards = shards(index).ok_or_else(|| Error::Index {
        path: index.to_owned(),
    })?;
    match shards.iter().find(|shard| !is_plain(shard) || !has(shard)) {
        Some(shard) => Err(Error::Shard {
            name: name.repository().to_owned(),
            path: index.to_owned(),
            shard: shard.clone(),
        }),
        None => Ok(shards.into_iter().collect()),
    }
}

/// Downloads the weights that the cache lacks, which are nearly all bytes of a model.
fn fetch_weights(
    hub: &Hub,
    client: &Client<'_>,
    layout: &Layout,
    commit: &str,
    files: &[String],
) -> Result<(), Error> {
    let is_missing = |file: &&String| !layout.snapshot_dir().join(file).is_file();
    let missing: Vec<Remote> = (files.iter().filter(is_missing))
        .map(|file| client.remote(commit, file))
        .collect::<Result<_, _>>()?;
    if missing.is_empty() {
        return Ok(());
    }
    let bytes = missing.iter().filter_map(|file| file.bytes).sum();
    let there: u64 = missing.iter().map(|file| layout.bytes_there(file)).sum();
    layout.check_room(bytes, there)?;
    let progress = hub.progress();
    progress.event(Event::Begins {
        name: client.name(),
        files: missing.len(),
        bytes,
    });
    let mut before = 0;
    for file in &missing {
        let mut received = 0;
        blob::fetch(client, layout, file, &mut |bytes| {
            received = bytes;
            progress.event(Event::Received {
                bytes: before + bytes,
            });
        })?;
        before += file.bytes.unwrap_or(received);
    }
    progress.event(Event::Ends);
    Ok(())
}

/// Whether a file holds weights in a form of PyTorch, TensorFlow or JAX, by its name.
fn is_weights(file: &str) -> bool {
    let ending = Path::new(file)
        .extension()
        .and_then(|ending| ending.to_str());
    let is_known = |ending| ["bin", "pt", "pth", "ckpt", "h5", "msgpack"].contains(&ending);
    ending.is_some_and(is_known) && file != "training_args.bin"
}

/// Removes a file, and does not mind if there is none.
fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::Io {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}
