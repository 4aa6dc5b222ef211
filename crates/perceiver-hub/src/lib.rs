//! Files of the Hugging Face Hub: downloads that are checked before they are used, uploads in one commit.
