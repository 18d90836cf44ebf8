"""DICOM photographs for the tests, written with pydicom: every encoding that can be made here."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import convert_color_space
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

OPHTHALMIC = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
SECRET = "ZZTOP"  # begins every value that may not leave a file
IDENTIFYING = dict(
    PatientName=f"{SECRET}^NAME",
    PatientID=f"{SECRET}-ID",
    OtherPatientIDs=f"{SECRET}-OTHER",
    PatientBirthDate="19010203",
    PatientSex="O",
    PatientAge="117Y",
    PatientAddress=f"{SECRET} STREET",
    PatientTelephoneNumbers=f"{SECRET}-TEL",
    PatientMotherBirthName=f"{SECRET}^MOTHER",
    PatientComments=f"{SECRET} COMMENTS",
    EthnicGroup=f"{SECRET}GROUP",
    Occupation=f"{SECRET}JOB",
    AccessionNumber=f"{SECRET}ACC",
    StudyID=f"{SECRET}STUDY",
    StudyDescription=f"{SECRET} STUDY DESCRIPTION",
    SeriesDescription=f"{SECRET} SERIES DESCRIPTION",
    ProtocolName=f"{SECRET} PROTOCOL",
    StudyDate="19210304",
    SeriesDate="19210305",
    ContentDate="19210306",
    AcquisitionDateTime="19210307101112",
    StudyTime="101113",
    SeriesTime="101114",
    ContentTime="101115",
    ReferringPhysicianName=f"{SECRET}^REFERRING",
    PerformingPhysicianName=f"{SECRET}^PERFORMING",
    OperatorsName=f"{SECRET}^OPERATOR",
    PhysiciansOfRecord=f"{SECRET}^RECORD",
    InstitutionName=f"{SECRET} HOSPITAL",
    InstitutionAddress=f"{SECRET} ADDRESS",
    InstitutionalDepartmentName=f"{SECRET} DEPARTMENT",
    StationName=f"{SECRET}STATION",
    DeviceSerialNumber=f"{SECRET}SERIAL",
    RequestingPhysician=f"{SECRET}^REQUESTING",
    RequestedProcedureID=f"{SECRET}REQ",
    PerformedProcedureStepID=f"{SECRET}STEP",
    ImageComments=f"{SECRET} IMAGE COMMENTS",
    AdmissionID=f"{SECRET}ADM",
    ClinicalTrialSubjectID=f"{SECRET}TRIAL",
    StudyInstanceUID="1.2.826.0.1.3680043.8.498.777000001",
    SeriesInstanceUID="1.2.826.0.1.3680043.8.498.777000002",
    FrameOfReferenceUID="1.2.826.0.1.3680043.8.498.777000003",
)


def photo_dataset(pixels, **attributes):
    """An ophthalmic photograph (height, width[, 3]) or several (frames, height, width, 3), not compressed."""
    frames = pixels if pixels.ndim == 4 else pixels[None]
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = UID(OPHTHALMIC), generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.PatientName = dataset.PatientID = dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.StudyDate = dataset.StudyTime = dataset.AccessionNumber = dataset.StudyID = ""
    dataset.ReferringPhysicianName, dataset.Manufacturer, dataset.Modality = "", "phantom", "OP"
    dataset.InstanceNumber, dataset.SeriesNumber = "1", "1"
    dataset.Rows, dataset.Columns = frames.shape[1:3]
    dataset.NumberOfFrames = len(frames)
    dataset.SamplesPerPixel = 3 if frames.ndim == 4 else 1
    dataset.PhotometricInterpretation = "RGB" if frames.ndim == 4 else "MONOCHROME2"
    if frames.ndim == 4:
        dataset.PlanarConfiguration = 0
    bits = 8 * frames.dtype.itemsize
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits, bits - 1, 0
    dataset.PixelData = frames.tobytes() + b"\0" * (frames.nbytes % 2)
    dataset["PixelData"].VR = "OW" if bits == 16 else "OB"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    for key, value in attributes.items():
        setattr(dataset, key, value)
    return dataset


def add_identity(dataset):
    """Plant strings that can be found again in everything that identifies somebody, private attributes too."""
    for key, value in IDENTIFYING.items():
        setattr(dataset, key, value)
    block = dataset.private_block(0x0011, f"{SECRET} PRIVATE", create=True)
    block.add_new(0x01, "LO", f"{SECRET} PRIVATE NAME")
    block.add_new(0x02, "PN", f"{SECRET}^PRIVATE")
    item = Dataset()
    item.RequestedProcedureDescription = f"{SECRET} NESTED"
    dataset.RequestAttributesSequence = [item]
    return dataset


def write_dicom(path, dataset):
    """Write a data set as a DICOM file; gives its path."""
    dataset.save_as(path, enforce_file_format=True)
    return Path(path)


def as_jpeg(dataset, **options):
    """The same data set with its frames as JPEG by Pillow."""
    shape = (int(dataset.NumberOfFrames), dataset.Rows, dataset.Columns, 3)
    coded = []
    for frame in np.frombuffer(dataset.PixelData, np.uint8)[: np.prod(shape)].reshape(shape):
        stream = io.BytesIO()
        Image.fromarray(frame).save(stream, "JPEG", quality=95, **options)
        coded.append(stream.getvalue())
    dataset.PixelData = encapsulate(coded)
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    return dataset


def as_ybr(dataset):
    """The same data set with its colors as luminance and chrominance, not compressed."""
    rgb = np.frombuffer(dataset.PixelData, np.uint8).reshape(dataset.Rows, dataset.Columns, 3)
    dataset.PixelData = convert_color_space(rgb, "RGB", "YBR_FULL").tobytes()
    dataset.PhotometricInterpretation = "YBR_FULL"
    return dataset
