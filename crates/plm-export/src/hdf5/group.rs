//! A group: a heap of names, nodes of links in the order of their names, and a tree over these.

use std::io::{self, Write};

use super::{UNDEFINED, Writer};

/// A node of links has at most twice as many. This and the next number are in the superblock.
const LINKS_K: u16 = 64;
/// A node of the tree has at most twice as many children.
const CHILDREN_K: u16 = 64;

/// The bytes that are collected before they are given out.
const FLUSH_BYTES: usize = 1 << 20;

/// A node, by the place of the last name below it in the heap.
struct Node {
    address: u64,
    last_name: u64,
}

/// Adds the group of some links, in the order of their names. It returns the addresses of its tree
/// and its heap.
pub(super) fn add(
    links: &[(String, u64)],
    writer: &mut Writer,
    file: &mut impl Write,
) -> io::Result<(u64, u64)> {
    writer.align();
    // The heap starts with an empty name. Each name has a zero after it.
    let mut places = Vec::with_capacity(links.len());
    let mut end = 8_u64;
    for (name, _) in links {
        places.push(end);
        end += (name.len() as u64 + 1).next_multiple_of(8);
    }
    let heap = writer.address();
    writer.bytes.extend(b"HEAP\0\0\0\0");
    // 1 stands for a heap without free space.
    for number in [end, 1, heap + 32] {
        writer.bytes.extend(number.to_le_bytes());
    }
    writer.bytes.extend([0; 8]);
    for (name, _) in links {
        writer.bytes.extend(name.bytes());
        writer.bytes.push(0);
        writer.align();
        flush_if_large(writer, file)?;
    }

    let mut nodes = Vec::new();
    let in_node = 2 * usize::from(LINKS_K);
    for (links, places) in links.chunks(in_node).zip(places.chunks(in_node)) {
        let (address, start) = (writer.address(), writer.bytes.len());
        writer.bytes.extend(b"SNOD\x01\0");
        writer.bytes.extend((links.len() as u16).to_le_bytes());
        for ((_, header), place) in links.iter().zip(places) {
            writer.bytes.extend(place.to_le_bytes());
            writer.bytes.extend(header.to_le_bytes());
            // Nothing of a dataset is repeated here.
            writer.bytes.extend([0; 24]);
        }
        // A node has room for all that it may have.
        writer.bytes.resize(start + 8 + in_node * 40, 0);
        nodes.push(Node {
            address,
            last_name: places[places.len() - 1],
        });
        flush_if_large(writer, file)?;
    }
    let mut level = 0;
    loop {
        nodes = add_level(&nodes, level, writer, file)?;
        level += 1;
        if let [root] = &nodes[..] {
            return Ok((root.address, heap));
        }
    }
}

/// Adds the nodes of the tree that are right above some nodes; one if there are none.
fn add_level(
    children: &[Node],
    level: u8,
    writer: &mut Writer,
    file: &mut impl Write,
) -> io::Result<Vec<Node>> {
    let most = 2 * usize::from(CHILDREN_K);
    let node_bytes = 24 + (most + 1) * 8 + most * 8;
    let mut groups: Vec<&[Node]> = children.chunks(most).collect();
    if groups.is_empty() {
        groups.push(&[]);
    }
    let (first, count) = (writer.address(), groups.len());
    let address_of = |number: Option<usize>| match number.filter(|&number| number < count) {
        Some(number) => first + (number * node_bytes) as u64,
        None => UNDEFINED,
    };
    let mut nodes = Vec::new();
    // Before the first child of a node is the last name of the node before it.
    let mut last_name = 0_u64;
    for (number, children) in groups.into_iter().enumerate() {
        let start = writer.bytes.len();
        writer.bytes.extend(b"TREE\0");
        writer.bytes.push(level);
        writer.bytes.extend((children.len() as u16).to_le_bytes());
        for neighbour in [number.checked_sub(1), Some(number + 1)] {
            writer.bytes.extend(address_of(neighbour).to_le_bytes());
        }
        writer.bytes.extend(last_name.to_le_bytes());
        for child in children {
            writer.bytes.extend(child.address.to_le_bytes());
            writer.bytes.extend(child.last_name.to_le_bytes());
            last_name = child.last_name;
        }
        writer.bytes.resize(start + node_bytes, 0);
        nodes.push(Node {
            address: address_of(Some(number)),
            last_name,
        });
        flush_if_large(writer, file)?;
    }
    Ok(nodes)
}

fn flush_if_large(writer: &mut Writer, file: &mut impl Write) -> io::Result<()> {
    match writer.bytes.len() {
        ..FLUSH_BYTES => Ok(()),
        _ => writer.flush(file),
    }
}

/// The superblock, version 0, of a file whose root is a group.
pub(super) fn superblock(root: u64, tree: u64, heap: u64, file_bytes: u64) -> Vec<u8> {
    let mut bytes = b"\x89HDF\r\n\x1a\n".to_vec();
    // Addresses and sizes take 8 bytes each.
    bytes.extend([0, 0, 0, 0, 0, 8, 8, 0]);
    bytes.extend(LINKS_K.to_le_bytes());
    bytes.extend(CHILDREN_K.to_le_bytes());
    bytes.extend([0; 4]);
    for address in [0, UNDEFINED, file_bytes, UNDEFINED] {
        bytes.extend(address.to_le_bytes());
    }
    // The link to the root has no name, and repeats where its tree and heap are.
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend(root.to_le_bytes());
    bytes.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(tree.to_le_bytes());
    bytes.extend(heap.to_le_bytes());
    bytes
}
