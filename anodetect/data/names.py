"""The meaning of names of folders and files, as people give them to normal and anomalous images, to
masks and to the parts of a data set."""

import re
import unicodedata
from functools import lru_cache
from typing import Literal

Meaning = Literal["normal", "anomalous", "mask", "train", "test", "validation", "image", ""]

# Where a word begins inside a name, as in defectFree and in NGParts.
CAPITALS = r"(?<=[a-z])(?=[A-Z])|(?<=(?<![A-Za-z])(?:OK|NG|KO))(?=[A-Z][a-z])"
STROKES = str.maketrans("łŁøØđĐı", "lLoOdDi")  # letters that NFKD leaves as they are


def words(name: str) -> list[str]:
    """Return the words of a name in lower case and without accents: what stands between other
    characters than letters and digits."""
    spaced = re.sub(CAPITALS, " ", _without_accents(name))
    return re.findall(r"[^\W_]+", spaced.casefold())


def _without_accents(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name)
    return "".join(c for c in letters if not unicodedata.combining(c)).translate(STROKES)


def _list(text: str) -> tuple[str, ...]:
    return tuple(words(text))


def _set(text: str) -> frozenset[str]:
    return frozenset(words(text))


NORMAL_WORDS = _set(
    """
    good ok okay normal normals healthy negative negatives intact clean passed control
    controls nominal unremarkable inlier inliers conform conforming conforme
    conformes compliant acceptable accepted accept perfect io
    gut gute gutteil gutteile gesund gesunde fehlerfrei einwandfrei ordnung
    bon bons bonne sain saine sains saines normale normales normaux normali
    buono buona buoni buone sano sana sanos sanas sani bueno buena buenos buenas
    goods aprobado aprobados bom aprovado aprovados saudavel saudaveis goed goede goedgekeurd
    gezond godkänd godkända godkendt godkjent felfri frisk hyvä ehjä terve
    dobry dobre dobra zdrowy zdrowe zdravy zdrave megfelelő sağlam sağlıklı
    норма нормальные нормальный нормально годен годные годный хорошие хороший хорошо исправные
    исправный здоровые здоровый
    """
)
ANOMALOUS_WORDS = _set(
    """
    ng ko nok bad ungood defect defects defective defectives abnormal abnormals abnormality
    abnormalities anomaly anomalies anomalous anomal tumor tumors tumour tumours lesion
    lesions disease diseased diseases sick pathology pathologic pathological positive
    positives fault faults faulty failed reject rejects rejected scrap outlier outliers
    unhealthy notok notgood finding findings cancer malignant carcinoma metastasis metastases
    glioma meningioma pneumonia covid tuberculosis stroke hemorrhage haemorrhage fracture
    fractures fractured broken damaged damage crack cracks cracked scratch scratches dent
    dents blowhole contaminated contamination nonconforming noncompliant unacceptable nio def
    scrapped infected parasitized severe moderate mild unperfect imperfect
    schlecht schlechte schlechtteil schlechtteile defekt defekte fehler fehlerhaft fehlerhafte
    fehlteil fehlteile ausschuss schrott kratzer krank kranke
    defaut defauts mauvais mauvaise malade malades pathologique pathologiques anormal anormale
    anormaux difetto difetti difettoso difettosa difettosi difettose cattivo cattivi scarto
    patologico patologica patologici malato malati anomalo anomala anomali
    defecto defectos defectuoso defectuosa defectuosos malo mala malos malas enfermo enfermos
    patologicos
    bads rework discard discarded unusable rayure rayures fissure fissures rebut rebuts
    graffio graffi scarti rechazado rechazados rechazo rayado rayados grieta anomalia anomalias
    ruim ruins defeito defeitos defeituoso defeituosos reprovado reprovados rejeitado rejeitados
    anormais fout foute fouten afgekeurd afwijking afwijkingen kapot
    underkänd underkända fejl feil dålig dåliga dårlig trasig kasseret kassert skadad vika vikoja
    zły złe wadliwe wadliwy wady uszkodzone vadné vadný špatné hibás selejt hatalı kusurlu bozuk
    брак брака бракованные дефект дефекты дефектов дефектные плохие плохой плохо аномалия аномалии
    аномальные
    неисправные неисправный негодные негодный больные больной трещина трещины царапина царапины
    """
)
STEMS = ("defekt", "fehler", "schlecht", "ausschuss", "schrott")  # of compounds: Fehlerbilder
# Words that mean something only when they are the whole name.
WHOLE_NORMAL = _set("neg pass no free")
WHOLE_ANOMALOUS = _set("pos fail yes")
# Words of names that tell what a whole data set is about, not what its images are.
ABOUT = _set(
    """
    detection inspection dataset study project analysis database challenge benchmark
    classification db
    """
)
NEGATIONS = _set(
    "no not non without free un nicht ohne kein keine sans pas sin senza frei zonder geen niet "
    "utan uden bez не без нет"
)

MASK_WORDS = _set(
    """
    mask masks segmentation segmentations groundtruth gt dseg annotation annotations
    maske masken masque masques máscaras maschere maska maski masky маска маски разметка
    """
)
WHOLE_MASK = _set(
    "label labels seg segs truth labelstr labelsts labelsva roi rois anno annos veriteterrain"
)
TRAIN = _set(
    """
    train training trainset imagestr
    entrenamiento entraînement apprentissage addestramento treino treinamento trainingsdaten lernen
    lerndaten trening träning træning eğitim обучение обучающая
    """
)
TEST = _set(
    """
    test testing tests testset imagests eval evaluation holdout heldout inference
    prueba pruebas essai essais prova teste testes testdaten prüfen pruefen prüfung pruefung
    тест тестовая
    """
)
VALIDATION = _set(
    """
    val valid validation validate validationset dev imagesva
    validación validação validazione validierung walidacja валидация
    """
)
AFTER_PART = _set("public private mixed set data images part split")
IMAGE = _set(
    """
    image images img imgs rgb data pictures jpegimages photos fotos originals bilder imágenes
    imagens immagini afbeeldingen obrazy изображения снимки 图像 图片 图像数据 原图 画像 이미지
    """
)

# Words of scripts that put no spaces between them. The first of these that a name has counts.
UNSPACED: tuple[tuple[Meaning, tuple[str, ...]], ...] = (
    (
        "mask",
        _list("掩码 掩膜 掩模 遮罩 蒙版 标注 標註 真值 マスク 正解 アノテーション 마스크 라벨"),
    ),
    (
        "normal",
        _list("无缺陷 無缺陷 无异常 無異常 未见异常 无瑕疵 無欠陥 欠陥なし 異常なし 不良なし"),
    ),
    ("normal", _list("무결함 결함없음 이상없음")),
    (
        "anomalous",
        _list("异常 異常 不良 缺陷 瑕疵 次品 残次 废品 廢品 不合格 非正常 不正常 损坏 病变"),
    ),
    ("anomalous", _list("划痕 刮痕 裂纹 裂紋 阳性 陽性 肿瘤 欠陥 欠点 キズ 汚れ 割れ")),
    ("anomalous", _list("비정상 이상품 불량 결함 불합격 스크래치 균열 양성")),
    ("normal", _list("正常 良品 合格 完好 良好 健康 阴性 陰性 정상 양품 음성")),
    ("train", _list("训练 訓練 学習 학습 훈련")),
    ("test", _list("测试 測試 テスト 테스트 시험")),
    ("validation", _list("验证 驗證 検証 검증")),
)

# The end of a file's name that makes it a mask, and one that does so only beside its image.
MASK_ENDS = MASK_WORDS | _set("seg segs msk lbl brainmask lesionmask aseg aparc labelmap")
MASK_ENDS_BESIDE = _set("label labels roi truth lesion lesions")
POINTS = _set("depth normals xyz pointcloud pcd")  # ends of names beside pictures in colour
SMALL = _set("thumb thumbs thumbnail preview")  # ends of names of small copies
IMAGE_WORDS = _set("image images img im volume vol scan slice")
# MR sequences and modalities, as files of one patient are named for them.
SEQUENCES = _set(
    "t1 t1w t1n t1c t1ce t1gd t1post t1pre t2 t2w t2f t2star t2s flair pd pdw dwi adc swi bold "
    "ct ctres pet pt suv"
)

# Folders that hold copies and leftovers, never images to learn from or to judge.
LEFTOVERS = {
    "@eadir": "thumbnails of a disk station",
    "#recycle": "trash",
    "$recycle.bin": "trash",
    "recycler": "trash",
    "trash": "trash",
    "lost+found": "trash",
    "__macosx": "leftovers of an archive",
    "thumbnails": "thumbnails",
    "thumbs": "thumbnails",
    "thumbnail": "thumbnails",
    "preview": "thumbnails",
    "previews": "thumbnails",
    "overlay": "pictures of results",
    "overlays": "pictures of results",
    "visualization": "pictures of results",
    "visualizations": "pictures of results",
    "heatmaps": "pictures of results",
    "__pycache__": "leftovers of programs",
    "system volume information": "leftovers of programs",
}


@lru_cache(2**14)
def meaning(name: str) -> Meaning:
    """Return what a folder of this name holds, "" if the name does not say it."""
    found = words(name)
    while len(found) > 1 and found[0].isdecimal():
        found.pop(0)
    joined = "".join(found)
    if not found:
        return ""

    ground_truth = found[-2:] == ["ground", "truth"]
    if joined in WHOLE_MASK or ground_truth or any(word in MASK_WORDS for word in found):
        return "mask"
    if part := _part(found, joined):
        return part
    if joined in IMAGE:
        return "image"
    if not joined.isascii():
        for unspaced, known in UNSPACED:
            if any(word in joined for word in known):
                return unspaced
    return _normality(found, joined)


@lru_cache(2**14)
def part_and_kind(name: str) -> tuple[Meaning, str]:
    """Return the part of a data set and the kind that a folder's name holds together: `train_good`
    has good images of the train part. "" and the name itself if it does not hold both."""
    known, found = meaning(name), words(name)
    parts = [word for word in found if _part([word], word)]
    rest = [word for word in found if word not in parts]
    if known not in ("normal", "anomalous") or len(parts) != 1 or not rest:
        return "", name
    if _normality(rest, "".join(rest)) != known:
        return "", name
    return _part(parts, parts[0]), "_".join(rest)


def _part(found: list[str], joined: str) -> Meaning:
    """Return the part of a data set that words name, such as `test_public`, "" for none."""
    first, rest = found[0].rstrip("0123456789"), found[1:]
    joined = joined.rstrip("0123456789")
    alone = all(word in AFTER_PART or word.isdecimal() for word in rest)
    if joined in TRAIN or (first in TRAIN and alone):
        return "train"
    if joined in TEST or (first in TEST and alone):
        return "test"
    if joined in VALIDATION or (first in VALIDATION and alone):
        return "validation"
    return ""


def _normality(found: list[str], joined: str) -> Meaning:
    """Return what words say: a negation turns it round (`defect free`, `not ok`)."""
    if joined in ANOMALOUS_WORDS or joined in WHOLE_ANOMALOUS:
        return "anomalous"
    if joined in NORMAL_WORDS or joined in WHOLE_NORMAL:
        return "normal"

    rests = {joined.removeprefix(each) for each in ("no", "non", "not", "un")} - {joined}
    rests &= ANOMALOUS_WORDS | NORMAL_WORDS
    numbered = {word.rstrip("0123456789") for word in found}  # good2
    if any(word in ABOUT for word in found):
        return ""
    negated = bool(rests) or any(word in NEGATIONS for word in found)
    anomalous = any(
        word in ANOMALOUS_WORDS or (word.startswith(STEMS) and word not in NORMAL_WORDS)
        for word in [*found, *rests, *numbered]
    )
    normal = any(word in NORMAL_WORDS for word in [*found, *rests, *numbered])
    if anomalous != normal:
        return "anomalous" if anomalous != negated else "normal"
    if anomalous and negated:  # not good but defective
        return "anomalous"
    return "normal" if not normal and found[-1] == "free" else ""


def is_own_output(name: str) -> bool:
    """Return whether a file's name ends like a heatmap or overlay that `score` writes."""
    return "_heatmap." in name.casefold()


def without_masks(name: str) -> str:
    """Return what is left of a folder's name, in lower case, without the words for masks."""
    rest = re.sub(
        "|".join(sorted(MASK_WORDS | WHOLE_MASK, key=len, reverse=True)),
        "",
        _without_accents(name).lower(),
    )
    return rest.strip("-_. ")


def letters(name: str) -> list[str]:
    """Return the words of a name without their numbers: `label0000` is `label`."""
    return re.findall(r"[^\W\d_]+", " ".join(words(name)))


def core(name: str) -> str:
    """Return a name without words for masks and for images: `mask_000` and `img_000` are `000`."""
    parts = re.findall(r"[^\W\d_]+|\d+", " ".join(words(name)))
    kept = [part for part in parts if part not in MASK_ENDS | MASK_ENDS_BESIDE | IMAGE_WORDS]
    return "_".join(kept)
