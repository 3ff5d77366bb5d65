"""What a run is made of: the face that notebooks show."""

import numpy as np
import pytest

from dualtl_lib import materials


class Named:
    """Faces of two classes, one picture each."""

    def __init__(self, *classes):
        self.classes = classes

    def of_class(self, name):
        if name not in self.classes:
            raise ValueError(f"no class {name!r}")
        return np.array([self.classes.index(name)])

    def batch(self, indices):
        return list(indices)


def test_the_face_shown_is_of_the_expression_or_where_there_is_none_of_the_last_class():
    assert materials.example(Named("neutral", "happy"), "neutral") == [0]
    assert materials.example(Named("awake", "bored"), "bored") == [1]
    assert materials.example(Named("awake", "bored"), "surprise") == [1]
    with pytest.raises(ValueError, match="no class 'suprise'"):
        materials.example(Named("awake", "bored"), "suprise")
