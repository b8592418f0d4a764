"""What names of folders and files mean."""

import pytest

from anodetect.data.names import meaning

NAMES = {
    "normal": "good GOOD Ok OK ok_parts normal Normal 0.normal normal_parts nominal healthy "
    "defect_free DefectFree non-defective nondefective no_tumor notumor NoTumor MT_Free free no "
    "uncracked no-finding negative healthy-controls night_good iO gut conforme "
    "gesund fehlerfrei sain normale buono Uninfected IO_Board sans_defaut ok_front",
    "anomalous": "NG ng ko nok bad defect defects 1.abnormal not_ok not-good notokay Ungood "
    "unhealthy abnormal Anomaly tumour_cases structural_anomalies positive yes fail non_normal "
    "unusual_defects non-conforme niO schlecht "
    "krank fehlerhaft Fehlerbilder Defektteile Schlechtteile malade difettoso "
    "Kratzer Défauts Parasitized NIO_Board "
    "def_front avec_defaut",
    "mask": "ground_truth GroundTruth gt masks lesion_masks labelsTr label labels seg Segmentation",
    "train": "train Train training imagesTr train_images train2017",
    "test": "test TEST test_public test_private_mixed imagesTs",
    "validation": "val valid validation Validation",
    "image": "Images img rgb Data imgs",
    "": "patient_07 P003 2024-10-01 lot-12 night no_12 sub-01 goodyear badminton okra left_pos "
    "anomaly_detection tumor_study defect-inspection-2024 "
    "good_and_bad brain_tumor_dataset "
    "union none test_patient_3 site_A",
}


@pytest.mark.parametrize("expected", NAMES)
def test_names_of_folders(expected):
    for name in NAMES[expected].split():
        assert meaning(name) == expected, name
