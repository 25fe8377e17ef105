//! Finding the image of a directory or archive that a user means. The files may have OCI's form, docker's, or both.
//!
//! Since version 25 `docker save` writes both forms into one archive, and several of its versions got one of them
//! wrong. So both are read. A broken form is ignored. If both forms name the same image, that image is found; if they
//! name different images, the user has to choose.

use super::files::Files;
use super::{Form, Found, Options, ask, docker, layout, legacy};
use crate::error::{Error, ErrorKind, Result};
use crate::id::Digest;

/// Finds the image that `reference` names, or the only one.
///
/// # Errors
/// `InvalidArgument` if there are several and none is named, or there is no image at all; `NotFound` if there is none
/// of that name or platform; `Unsupported` for an image that strata cannot keep; `DataLoss` for a damaged image.
pub(super) fn find(files: &Files, reference: Option<&str>, options: &Options) -> Result<Found> {
    let platform = options.platform.as_ref();
    let oci = || checked(layout::find(files, reference, platform), options);
    let docker = || checked(docker(files, reference, options), options);
    let (has_oci, has_docker) = (layout::is_there(files)?, is_docker(files)?);
    match (options.form, has_oci, has_docker) {
        (None, true, true) => both(files, oci(), docker()),
        (Some(Form::Oci) | None, true, _) => oci(),
        (Some(Form::Docker) | None, _, true) => docker(),
        (Some(Form::Oci), false, _) => {
            Err(Error::invalid(format!("it is no OCI layout: {} is missing", layout::INDEX)))
        }
        (Some(Form::Docker), _, false) => {
            Err(Error::invalid(format!("it is no docker archive: {} is missing", docker::MANIFEST)))
        }
        (None, false, false) => Err(Error::invalid(format!(
            "it is no image: neither {} (OCI) nor {} (docker) is in it",
            layout::MARKER,
            docker::MANIFEST
        ))),
    }
}

fn checked(found: Result<Found>, options: &Options) -> Result<Found> {
    let found = found?;
    found.check_platform(options.platform.as_ref())?;
    Ok(found)
}

fn is_docker(files: &Files) -> Result<bool> {
    Ok(files.find(docker::MANIFEST)?.is_some() || legacy::is_there(files)?)
}

/// Reads docker's present form, or else the form from before 1.10, which docker wrote beside the present one until
/// version 25.
fn docker(files: &Files, reference: Option<&str>, options: &Options) -> Result<Found> {
    let broken = match files.find(docker::MANIFEST)?.map(|_| docker::find(files, reference, &options.ingest)) {
        Some(Err(error)) if error.kind() == ErrorKind::DataLoss => Some(error),
        Some(found) => return found,
        None => None,
    };
    match (legacy::is_there(files)?, broken) {
        (false, Some(error)) => Err(error),
        (_, broken) => legacy::find(files, reference, &options.ingest).map_err(|error| broken.unwrap_or(error)),
    }
}

/// Decides between the results of the two forms of one archive.
fn both(files: &Files, oci: Result<Found>, docker: Result<Found>) -> Result<Found> {
    let oci = oci.and_then(|found| blobs_are_there(files, &found).map(|()| found));
    let is_choice =
        |found: &Result<Found>| found.as_ref().is_err_and(|error| error.kind() == ErrorKind::InvalidArgument);
    let is_stop = |found: &Result<Found>| found.as_ref().is_err_and(|error| error.kind() == ErrorKind::Cancelled);
    match (oci, docker) {
        (_, docker) if is_stop(&docker) => docker,
        (oci, _) if is_choice(&oci) => oci,
        (_, docker) if is_choice(&docker) => docker,
        (Ok(oci), Ok(docker)) => agreed(oci, docker),
        (Ok(found), Err(_)) | (Err(_), Ok(found)) => Ok(found),
        (Err(oci), Err(docker)) if docker.kind() == ErrorKind::NotFound => Err(oci),
        (Err(oci), Err(docker)) if oci.kind() == ErrorKind::NotFound => Err(docker),
        (Err(oci), Err(_)) => Err(oci),
    }
}

/// Decides between the images of the two forms. For one image, OCI's form is taken, because it says more. If only OCI's
/// image is for this machine, it is taken too: docker's form can name only one platform of an image for several.
fn agreed(oci: Found, docker: Found) -> Result<Found> {
    let ids = [&oci, &docker].map(|found| Digest::of(&found.config));
    if ids[0] == ids[1] || (oci.is_for_host() && !docker.is_for_host()) {
        return Ok(oci);
    }
    Err(ask(&ids.map(|id| id.to_string())))
}

/// Fails if the blob of a layer is missing or has a wrong length.
fn blobs_are_there(files: &Files, found: &Found) -> Result<()> {
    let is_whole = |path: &str, size| files.find(path).map(|blob| blob.is_some_and(|blob| blob.size() == size));
    for layer in &found.layers {
        if !is_whole(&layer.path, layer.size_bytes)? {
            return Err(Error::data_loss(format!("{layer} is not whole")));
        }
    }
    Ok(())
}
