//! That structs which kernels take by value lie in memory as C++ lays them out.

/// Holds a struct of ours against its layout in [`contract`](crate::contract), when it is compiled:
/// size, alignment, and each field's name and place. The C++ struct is held against the same.
macro_rules! same_layout {
    ($struct:ty, $layout:ident { $($field:ident),* $(,)? }) => {
        const _: () = {
            let layout = crate::contract::$layout;
            assert!(size_of::<$struct>() == layout.bytes);
            assert!(align_of::<$struct>() == layout.align);
            let fields: &[(&str, usize)] =
                &[$((stringify!($field), std::mem::offset_of!($struct, $field))),*];
            assert!(fields.len() == layout.fields.len());
            let mut field = 0;
            while field < fields.len() {
                let (ours, agreed) = (fields[field], layout.fields[field]);
                assert!(crate::cuda::is_same_name(ours.0, agreed.0));
                assert!(ours.1 == agreed.1);
                field += 1;
            }
        };
    };
}
pub(crate) use same_layout;

/// Whether two names are the same, when it is compiled.
pub(crate) const fn is_same_name(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if one.len() != other.len() {
        return false;
    }
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
            return false;
        }
        at += 1;
    }
    true
}
