"""Dataset quality: what is measured of each episode, what of it is a defect or a risk, and the letter that follows.

``grading.grade_source(source)`` grades; ``store.load_grade(settings, digest)`` finds the grade of a dataset again.
"""
