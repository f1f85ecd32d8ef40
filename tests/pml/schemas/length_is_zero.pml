<!-- length_is_zero.pml:3:3: length='0'; expected a whole number from 1 to 999999999 -->
<schema name="s">
  <parameter name="a" length="0"/>
</schema>
