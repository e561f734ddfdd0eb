//! Warehouses for tests.
