<!-- character_reference.pml:3:4: a character that XML cannot hold; expected another -->
<schema name="s">
  a&#1;b
</schema>
