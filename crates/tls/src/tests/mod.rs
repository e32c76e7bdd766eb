//! Real conversations, whole and damaged.

mod conversations;
mod openssl;
