//! Attributes that are one of a few.

/// A choice and its options by name, for tables and for networks that read attributes off pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// What is chosen.
    pub name: &'static str,
    /// The options, by index.
    pub options: &'static [&'static str],
}

/// The options of a choice that is true or false, by index.
pub(crate) const NO_YES: &[&str] = &["no", "yes"];

/// An enum with a list of its variants and their names.
macro_rules! named {
    ($(#[$about:meta])* $name:ident: $($(#[$doc:meta])* $variant:ident = $word:literal),+ $(,)?) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$doc])* $variant),+
        }

        impl $name {
            /// Every option, by index.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$variant),+];
            /// Every option's name, by index.
            pub const NAMES: &'static [&'static str] = &[$($word),+];

            /// Its place in the lists.
            pub fn index(self) -> usize {
                self as usize
            }

            /// Its name.
            pub fn name(self) -> &'static str {
                Self::NAMES[self.index()]
            }
        }
    };
}

named! {
    /// The colour of hair, brows and beard.
    HairColour:
    /// Nearly black.
    Black = "black",
    /// Chestnut.
    Brown = "brown",
    /// Straw.
    Blond = "blond",
    /// Copper.
    Ginger = "ginger",
    /// Silver.
    Grey = "grey",
    /// Dyed.
    Pink = "pink",
}

named! {
    /// How the hair is worn.
    HairStyle:
    /// No hair on the head; brows there are.
    None = "none",
    /// A cap that ends above the ears.
    Short = "short",
    /// Over the ears, down to the shoulders.
    Long = "long",
    /// A wide round cloud.
    Afro = "afro",
    /// Pulled back, with a knot on the crown.
    Bun = "bun",
}

named! {
    /// The colour of the irises.
    EyeColour:
    /// Brown.
    Brown = "brown",
    /// Blue.
    Blue = "blue",
    /// Green.
    Green = "green",
}

named! {
    /// A colour of backgrounds and shirts.
    Colour:
    /// Red.
    Red = "red",
    /// Orange.
    Orange = "orange",
    /// Yellow.
    Yellow = "yellow",
    /// Green.
    Green = "green",
    /// Cyan.
    Cyan = "cyan",
    /// Blue.
    Blue = "blue",
    /// Purple.
    Purple = "purple",
    /// White.
    White = "white",
}

named! {
    /// What is on the background.
    Pattern:
    /// Nothing.
    Plain = "plain",
    /// Level stripes.
    Striped = "striped",
    /// Dots in rows and columns.
    Dotted = "dotted",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_names_and_lists_agree() {
        for (index, style) in HairStyle::ALL.into_iter().enumerate() {
            assert_eq!(style.index(), index);
            assert_eq!(style.name(), HairStyle::NAMES[index]);
        }
        assert_eq!(HairStyle::Bun.name(), "bun");
        assert_eq!(Colour::ALL.len(), 8);
    }
}
