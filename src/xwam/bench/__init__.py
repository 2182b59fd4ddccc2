"""How fast, measured so that anyone can repeat it: stages, exact operation counts, shares of the matrix rate.

``operations`` counts without running, ``clock`` measures, ``stages`` builds a policy and measures its parts, ``report``
says it in a table or as JSON.
"""
