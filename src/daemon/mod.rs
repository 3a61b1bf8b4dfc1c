//! One process per user.
