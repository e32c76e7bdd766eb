//! Which requests a rule is about: `POST /users/{id}/cart`, `/static/**`, `GET **`.

/// A method and a path with named segments.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pattern {
    /// `None`: any.
    method: Option<Vec<u8>>,
    /// `None`: any path.
    path: Option<Path>,
}

#[derive(Clone, Debug)]
struct Path {
    segments: Vec<Segment>,
    /// Any number of further segments may follow.
    open: bool,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Segment {
    Exact(Vec<u8>),
    Named(String),
}

impl Pattern {
    /// Reads a pattern. The error says what is wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (method, path) = match text.trim().split_once(' ') {
            Some((method, path)) => (Some(method.trim()), path.trim()),
            None => (None, text.trim()),
        };
        let method = method.filter(|method| *method != "*");
        if path == "**" {
            return Ok(Self {
                method: method.map(|method| method.as_bytes().to_vec()),
                path: None,
            });
        }
        if !path.starts_with('/') {
            return Err(format!(
                "{text:?} is no pattern of requests such as POST /users/{{id}}, /static/** or GET **"
            ));
        }
        let (path, open) = match path.strip_suffix("/**") {
            Some(path) => (path, true),
            None => (path, false),
        };
        let mut segments: Vec<Segment> = Vec::new();
        for segment in path.split('/').skip(1) {
            let name = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
            let segment = match name {
                Some("") => return Err("a segment in braces needs a name".to_owned()),
                Some(name) => Segment::Named(name.to_owned()),
                None if segment.contains(['{', '}', '*']) => {
                    return Err(format!(
                        "{segment:?}: a name in braces stands for a whole segment, and ** for the rest of the path"
                    ));
                }
                None => Segment::Exact(segment.as_bytes().to_vec()),
            };
            if matches!(segment, Segment::Named(_)) && segments.contains(&segment) {
                return Err("two segments have the same name".to_owned());
            }
            segments.push(segment);
        }
        Ok(Self {
            method: method.map(|method| method.as_bytes().to_vec()),
            path: Some(Path { segments, open }),
        })
    }

    /// Whether a request is of this kind. The path is the normal one.
    pub(crate) fn fits(&self, method: &[u8], path: &[u8]) -> bool {
        if self.method.as_deref().is_some_and(|own| own != method) {
            return false;
        }
        let Some(own) = &self.path else {
            return true;
        };
        let mut asked = segments(path);
        let same = own.segments.iter().all(|segment| match segment {
            Segment::Exact(text) => asked.next() == Some(text),
            Segment::Named(_) => asked.next().is_some_and(|text| !text.is_empty()),
        });
        same && (own.open || asked.next().is_none())
    }

    /// The segments of a path that fits: name, if it has one, and text.
    pub(crate) fn split<'a>(
        &'a self,
        path: &'a [u8],
    ) -> impl Iterator<Item = (Option<&'a str>, &'a [u8])> {
        let named = self.path.iter().flat_map(|path| &path.segments);
        let names = named.map(|segment| match segment {
            Segment::Exact(_) => None,
            Segment::Named(name) => Some(name.as_str()),
        });
        names.chain(std::iter::repeat(None)).zip(segments(path))
    }

    /// The names of its segments.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let segments = self.path.iter().flat_map(|path| &path.segments);
        segments.filter_map(|segment| match segment {
            Segment::Exact(_) => None,
            Segment::Named(name) => Some(name.as_str()),
        })
    }
}

fn segments(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.strip_prefix(b"/")
        .unwrap_or(path)
        .split(|byte| *byte == b'/')
}
