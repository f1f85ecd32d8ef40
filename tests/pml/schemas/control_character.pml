<!-- control_character.pml:3:4: control character '\x01'; expected characters that XML can hold -->
<schema name="s">
  ab
</schema>
