//! The graph of an image's snapshots, drawn as text: newest first, each below those that went on from it.
//!
//! A column of the drawing stands for a line of snapshots and waits for the next of it. Where several lines went on from
//! one snapshot, their columns meet above it.

use std::collections::{HashMap, HashSet};

use leeward_repository::SnapshotId;

/// A snapshot with what it went on from.
#[derive(Debug, Clone)]
pub struct Vertex {
    /// The snapshot.
    pub id: SnapshotId,
    /// Those of its parents that are kept.
    pub parents: Vec<SnapshotId>,
}

/// A line of the drawing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What is drawn at its beginning.
    pub drawing: String,
    /// The snapshot that stands on it, as its rank in what was given.
    pub vertex: Option<usize>,
}

/// The snapshots from which no other one goes on.
pub fn heads(vertices: &[Vertex]) -> Vec<SnapshotId> {
    let parents: HashSet<SnapshotId> = vertices.iter().flat_map(|vertex| &vertex.parents).copied().collect();
    vertices.iter().map(|vertex| vertex.id).filter(|id| !parents.contains(id)).collect()
}

/// Draws snapshots that are given oldest first.
pub fn draw(vertices: &[Vertex]) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut columns: Vec<SnapshotId> = Vec::new();
    for rank in order(vertices) {
        let Vertex { id, parents } = &vertices[rank];
        let column = match columns.iter().position(|waiting| waiting == id) {
            Some(column) => column,
            None => {
                columns.push(*id);
                columns.len() - 1
            }
        };
        while let Some(other) = columns.iter().skip(column + 1).position(|waiting| waiting == id) {
            let other = other + column + 1;
            lines.push(Line { drawing: meeting(column, other, columns.len()), vertex: None });
            columns.remove(other);
        }
        let drawing = (0..columns.len()).map(|at| if at == column { "* " } else { "| " }).collect();
        lines.push(Line { drawing, vertex: Some(rank) });
        match parents.split_first() {
            None => {
                columns.remove(column);
            }
            Some((first, others)) => {
                columns[column] = *first;
                columns.extend(others);
            }
        }
    }
    lines
}

/// The columns `other` and `column`, to the left of it, meet; those to the right move up.
fn meeting(column: usize, other: usize, count: usize) -> String {
    let mut drawing = String::new();
    for at in 0..other {
        drawing.push('|');
        drawing.push(match at {
            at if at + 1 == other => '/',
            at if at >= column => '_',
            _ => ' ',
        });
    }
    drawing.push_str(&" /".repeat(count - other - 1));
    drawing
}

/// Ranks, each after all that went on from it; the newest first where that leaves a choice.
fn order(vertices: &[Vertex]) -> Vec<usize> {
    let ranks: HashMap<SnapshotId, usize> =
        vertices.iter().enumerate().map(|(rank, vertex)| (vertex.id, rank)).collect();
    let mut children = vec![0_usize; vertices.len()];
    let parents = |rank: usize| vertices[rank].parents.iter().filter_map(|parent| ranks.get(parent).copied());
    for rank in 0..vertices.len() {
        parents(rank).for_each(|parent| children[parent] += 1);
    }
    let mut ready: std::collections::BTreeSet<usize> =
        (0..vertices.len()).filter(|rank| children[*rank] == 0).collect();
    let mut ordered = Vec::with_capacity(vertices.len());
    while let Some(rank) = ready.pop_last() {
        ordered.push(rank);
        for parent in parents(rank) {
            children[parent] -= 1;
            if children[parent] == 0 {
                ready.insert(parent);
            }
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vertex(id: u8, parents: &[u8]) -> Vertex {
        let name = |number: u8| SnapshotId([number; 32]);
        Vertex { id: name(id), parents: parents.iter().map(|parent| name(*parent)).collect() }
    }

    fn drawn(vertices: &[Vertex]) -> Vec<String> {
        let shown = |line: Line| match line.vertex {
            Some(rank) => format!("{}{}", line.drawing, vertices[rank].id.0[0]),
            None => line.drawing,
        };
        draw(vertices).into_iter().map(shown).collect()
    }

    #[test]
    fn a_line_is_a_column() {
        assert_eq!(drawn(&[vertex(1, &[]), vertex(2, &[1]), vertex(3, &[2])]), ["* 3", "* 2", "* 1"]);
    }

    #[test]
    fn two_heads_meet_above_what_they_went_on_from() {
        let graph = [vertex(1, &[]), vertex(2, &[1]), vertex(3, &[1]), vertex(4, &[3])];
        assert_eq!(drawn(&graph), ["* 4", "* 3", "| * 2", "|/", "* 1"]);
        assert_eq!(heads(&graph), [graph[1].id, graph[3].id]);
    }

    #[test]
    fn three_heads_and_a_parent_that_is_not_kept() {
        let graph = [vertex(1, &[]), vertex(5, &[]), vertex(2, &[1]), vertex(3, &[1]), vertex(4, &[1])];
        let expected = ["* 4", "| * 3", "| | * 2", "| | | * 5", "|/ /", "|/", "* 1"];
        assert_eq!(drawn(&graph), expected);
    }

    #[test]
    fn a_circle_that_a_hostile_writer_made_ends() {
        assert!(drawn(&[vertex(1, &[2]), vertex(2, &[1])]).is_empty());
    }
}
