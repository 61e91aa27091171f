//! Setters for structs of options, which are `#[non_exhaustive]`: a further option does not break a caller.

/// Implements one setter, by the field's name, for each field that is named.
macro_rules! setters {
    ($of:ty { $($field:ident: $type:ty),+ $(,)? }) => {
        impl $of {$(
            #[doc = concat!("Sets `", stringify!($field), "`.")]
            #[must_use]
            pub fn $field(mut self, $field: $type) -> Self {
                self.$field = $field;
                self
            }
        )+}
    };
}

pub(crate) use setters;
