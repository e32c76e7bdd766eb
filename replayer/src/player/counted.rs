//! Enums whose variants are counted, each with the name that reports show.

/// Declares the enum and, beside it, a struct with one counter for each variant.
macro_rules! counted {
    ($(#[$doc:meta])* $name:ident, $counts:ident {
        $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// Every variant, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The variant of that name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|variant| variant.name() == name)
            }

            /// The name in reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        #[doc = concat!("How often each [`", stringify!($name), "`] happened.")]
        #[derive(Clone, Debug, Default, Eq, PartialEq)]
        pub struct $counts([u64; $name::ALL.len()]);

        impl $counts {
            /// Counts one.
            pub fn add(&mut self, what: $name) {
                self.add_n(what, 1);
            }

            /// Counts several.
            pub fn add_n(&mut self, what: $name, n: u64) {
                if let Some(count) = self.0.get_mut(what as usize) {
                    *count += n;
                }
            }

            /// How often it happened.
            #[must_use]
            pub fn of(&self, what: $name) -> u64 {
                self.0.get(what as usize).copied().unwrap_or(0)
            }

            /// Of all kinds together.
            #[must_use]
            pub fn total(&self) -> u64 {
                self.0.iter().sum()
            }

            /// Adds the counts of another worker.
            pub fn merge(&mut self, other: &Self) {
                for (count, more) in self.0.iter_mut().zip(other.0) {
                    *count += more;
                }
            }

            /// Each kind with its count, zeros included.
            pub fn iter(&self) -> impl Iterator<Item = ($name, u64)> {
                $name::ALL.iter().copied().zip(self.0)
            }
        }
    };
}

pub(super) use counted;
