<!-- text_in_parameter.pml:3:34: text 'text' in a <parameter>; expected nothing in it -->
<schema name="s">
  <parameter name="a" length="1">text</parameter>
</schema>
