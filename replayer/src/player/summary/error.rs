//! Why summaries cannot be read or added up.

/// Why a text is no summary that can be added to others.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SummaryError {
    /// It is not JSON, or not of the form that a summary has.
    #[error("not the summary of a replay: {0}")]
    Form(#[from] serde_json::Error),
    /// It is the summary of something else, or was stripped.
    #[error(
        "it has no tapedeck.state: only what `tapedeck replay --summary` writes can be added up"
    )]
    NoState,
    /// A later version wrote it.
    #[error("it is of version {found}, and this program knows version {known}")]
    Version {
        /// That of the file.
        found: u32,
        /// That of this program.
        known: u32,
    },
    /// A histogram is damaged.
    #[error("the histogram of {of} is damaged: {why}")]
    Histogram {
        /// The metric.
        of: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Something has a name or a form that this program does not know.
    #[error("unknown {what} {found:?}")]
    Unknown {
        /// What it would have to be.
        what: &'static str,
        /// What is there.
        found: String,
    },
    /// It holds more than any run has.
    #[error("{found} {what} are more than the {most} that a run can have")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// It contradicts itself.
    #[error("it contradicts itself: {0}")]
    Contradiction(&'static str),
}

/// Why summaries do not add up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// There is none.
    #[error("there is nothing to add up")]
    Nothing,
    /// The runs were asked different things, so that their sum would be the result of neither.
    #[error("the runs were asked different things: {what} is {one} in one and {other} in another")]
    Different {
        /// What differs.
        what: String,
        /// In the first.
        one: String,
        /// In another.
        other: String,
    },
    /// A threshold over windows needs every second of every run.
    #[error(
        "the threshold `{0}` is about windows, and one of the runs was too long to carry each of \
         its seconds: judge it by the exit codes of the runs"
    )]
    NoSeconds(String),
    /// What was read is damaged.
    #[error(transparent)]
    Summary(#[from] SummaryError),
}
