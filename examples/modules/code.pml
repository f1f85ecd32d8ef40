<!-- Source files as modules: a question takes the files that it is about, in any combination. -->
<schema name="code">
  Below are files of a little game, then a question about them.

  <module name="unit" src="code/unit.py"/>
  <module name="board" src="code/board.py"/>
  <module name="game" src="code/game.py"/>
  <!-- game.py uses the other two: whoever asks about all three gets them encoded together. -->
  <scaffold name="whole-game" modules="unit board game"/>
</schema>
