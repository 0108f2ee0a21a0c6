//! Nothing: the contestant is `uws.cpp`; this manifest only pins a crate.
