//! Tests of the stages together: see the files beside this folder.
