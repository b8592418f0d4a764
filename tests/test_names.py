"""What names of folders and files mean."""

import pytest

from anodetect.data.names import meaning, part_and_kind

NAMES = {
    "normal": "good GOOD Ok OK ok_parts normal Normal 0.normal normal_parts nominal healthy "
    "defect_free DefectFree non-defective nondefective no_tumor notumor NoTumor MT_Free free no "
    "uncracked no-finding negative healthy-controls night_good iO gut conforme "
    "gesund fehlerfrei sain normale buono Uninfected IO_Board sans_defaut ok_front "
    "норма Хорошие без_дефектов goed dobré godkänd sağlam aprovado zonder_fouten "
    "良品 正常 合格 无缺陷 無欠陥 異常なし 정상 양품 무결함 良品_2024 "
    "train_good good_train TestNormal val_ok test_no_defect good2 OK12 ok_2024 OK-new OKParts",
    "anomalous": "NG ng ko nok bad defect defects 1.abnormal not_ok not-good notokay Ungood "
    "unhealthy abnormal Anomaly tumour_cases structural_anomalies positive yes fail non_normal "
    "unusual_defects non-conforme niO schlecht "
    "krank fehlerhaft Fehlerbilder Defektteile Schlechtteile malade difettoso "
    "Kratzer Défauts Parasitized NIO_Board "
    "def_front avec_defaut défauts_rayures "
    "brak_defekt брак дефекты_2024 Царапины defeitos reprovado fout dålig wadliwe vadné hatalı "
    "不良品 缺陷 不合格01 異常 非正常 欠陥 キズ 불량 비정상 rework "
    "test_defect defect_test defect3 NG2 covid19 NGParts ABNormalParts",
    "mask": "ground_truth GroundTruth gt masks lesion_masks labelsTr label labels seg Segmentation "
    "Masken masques máscaras maschere 标注 缺陷掩码 マスク 마스크 vérité_terrain",
    "train": "train Train training imagesTr train_images train2017 "
    "entraînement addestramento Trainingsdaten обучение 训练 訓練 学習 학습",
    "test": "test TEST test_public test_private_mixed imagesTs eval "
    "evaluation holdout prueba Prüfen тест 测试集 テスト 테스트",
    "validation": "val valid validation Validation validação 验证 検証",
    "image": "Images img rgb Data imgs",
    "": "patient_07 P003 2024-10-01 lot-12 night no_12 sub-01 goodyear badminton okra left_pos "
    "anomaly_detection tumor_study defect-inspection-2024 "
    "good_and_bad brain_tumor_dataset "
    "union none test_patient_3 site_A SEM_7 零件 部品 деталь",
}


def test_a_name_may_hold_a_part_and_a_kind():
    together = {
        "train_good": ("train", "good"),
        "good_train": ("train", "good"),
        "TestNormal": ("test", "normal"),
        "val-ok": ("validation", "ok"),
        "line3_test_no_defect": ("test", "line3_no_defect"),
        "defect_test2": ("test", "defect"),
    }
    for name, expected in together.items():
        assert part_and_kind(name) == expected
    for name in ("train", "good", "train_images", "train_test_good", "test_patient_3", "good (1)"):
        assert part_and_kind(name) == ("", name)


@pytest.mark.parametrize("expected", NAMES)
def test_names_of_folders(expected):
    for name in NAMES[expected].split():
        assert meaning(name) == expected, name
    assert meaning("good (1)") == "normal" and meaning("NG (1)") == "anomalous"
