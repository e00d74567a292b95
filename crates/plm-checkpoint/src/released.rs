//! What families say of the models that they have released.

/// A released model of a family, and where it is on the Hugging Face hub.
///
/// ```
/// use plm_checkpoint::ReleasedModel;
///
/// const TOY: ReleasedModel = ReleasedModel {
///     family: "Toy",
///     owner: "someone",
///     name: "toy",
///     parameters: 1_000,
///     num_layers: 2,
///     hidden_size: 8,
///     licence: "MIT",
/// };
/// assert_eq!(TOY.repository(), "someone/toy");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReleasedModel {
    /// The family, as people call it.
    pub family: &'static str,
    /// The owner of its repository on the hub.
    pub owner: &'static str,
    /// The name of its repository, by which the model is known.
    pub name: &'static str,
    /// The number of weights, with those of the heads that it was released with.
    pub parameters: u64,
    /// The number of transformer layers.
    pub num_layers: usize,
    /// The width of a hidden state, and so of an embedding.
    pub hidden_size: usize,
    /// The licence of the weights, by its SPDX identifier if it has one.
    pub licence: &'static str,
}

impl ReleasedModel {
    /// The model's repository on the hub, `owner/name`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }
}
