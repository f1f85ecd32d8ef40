<!-- turn_in_turn.pml:3:11: misplaced tag <user> in <system>; expected text, <module>, <union>, <parameter> -->
<schema name="s">
  <system><user>text</user></system>
</schema>
