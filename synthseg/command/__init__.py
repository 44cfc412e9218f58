"""What stands around the runs: the command line and what only its commands use.

``cli`` has the commands and ``terminal`` what they show. ``jobs`` executes chapters, ``reruns``
repeats them from their cards, and ``publishing`` makes the book of them. ``predict`` makes masks
for new images, and ``contact`` a picture of one's own data.
"""
